"""What a pod asks of its network, in CNI's words."""

from __future__ import annotations

import pytest

from ropewalk.errors import Invalid
from ropewalk.network import capabilities
from ropewalk.spec import pod

METADATA = pod.PodSandboxMetadata(name="web", namespace="default", uid="u-1")


def test_arguments_name_the_pod() -> None:
    assert capabilities.build_arguments("abc", pod.PodSpec(metadata=METADATA)) == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
    )


@pytest.mark.parametrize("name", ["a;IP=10.0.0.1", "a=b", "a\0b"])
def test_a_name_adds_no_argument_of_its_own(name: str) -> None:
    with pytest.raises(Invalid, match="K8S_POD_NAME"):
        capabilities.build_arguments("abc", pod.PodSpec(metadata=pod.PodSandboxMetadata(name=name)))


def test_a_pod_that_asks_for_nothing_gets_nothing() -> None:
    assert capabilities.build(pod.PodSpec(metadata=METADATA), []) == {}


def test_everything_that_a_pod_may_ask() -> None:
    spec = pod.PodSpec(
        port_mappings=[
            pod.PortMapping(container_port=80, host_port=8080),
            pod.PortMapping(container_port=53, host_port=53, protocol=pod.Protocol.UDP, host_ip="192.0.2.1"),
            pod.PortMapping(container_port=81),
        ],
        annotations={capabilities.INGRESS: "10M", capabilities.EGRESS: "1Mi"},
        dns_config=pod.DNSConfig(servers=["10.0.0.10"], searches=["svc.local"], options=["ndots:5"]),
        linux=pod.LinuxPodSandboxConfig(cgroup_parent="/kubepods/pod1"),
    )
    assert capabilities.build(spec, ["10.1.0.0/24", "fd00::/64"]) == {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
        ],
        "bandwidth": {
            "ingressRate": 10_000_000,
            "ingressBurst": capabilities.BURST,
            "egressRate": 1 << 20,
            "egressBurst": capabilities.BURST,
        },
        "dns": {"servers": ["10.0.0.10"], "searches": ["svc.local"], "options": ["ndots:5"]},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
        "io.kubernetes.cri.pod-annotations": spec.annotations,
        "cgroupPath": "/kubepods/pod1",
    }


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1000", 1000), ("1k", 1000), ("1.5M", 1_500_000), ("2Gi", 2 << 30), ("1e6", 10**6), (".5G", 5 * 10**8),
     ("1000500m", 1001), ("1P", 10**15), ("+3M", 3 * 10**6)],
)  # fmt: skip
def test_a_rate_is_a_quantity(text: str, bits: int) -> None:
    assert capabilities.parse_rate(text, "x") == bits


@pytest.mark.parametrize("text", ["", "fast", "10 M", "999", "1E", "-5M", "10MB", "1e400", "1.2.3", "٣k"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="annotation x="):
        capabilities.parse_rate(text, "x")
