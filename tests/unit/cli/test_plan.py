"""What `run` asks for."""

from __future__ import annotations

import re

import pytest

from ropewalk.cli import names, plan
from ropewalk.errors import Invalid
from ropewalk.spec.pod import NamespaceMode


def test_the_least() -> None:
    planned = plan.build(plan.Flags("docker.io/library/busybox:1.35@sha256:00"))
    pod, container = planned.pod, planned.container
    assert re.fullmatch(r"busybox-[0-9a-f]{4}", planned.name)
    assert (pod.metadata.namespace, pod.hostname, pod.labels) == ("default", planned.name, {names.RUN: planned.name})
    assert pod.namespaces.network is NamespaceMode.POD
    assert pod.namespaces.pid is NamespaceMode.CONTAINER
    assert planned.log_path == f"/var/log/pods/default_{planned.name}_{pod.metadata.uid}/{planned.name}/0.log"
    assert (container.command, container.args, container.labels) == ([], [], {})
    assert container.security.seccomp is not None
    assert "/proc/kcore" in container.security.masked_paths
    assert "/proc/sys" in container.security.readonly_paths


def test_every_flag_arrives() -> None:
    planned = plan.build(
        plan.Flags(
            "busybox", ["-c", "x"], name="web", entrypoint="sh", publish=["8080:80"], env=["A=b"], volume=["/a:/b:ro"],
            workdir="/w", user="1000:50", runtime="crun", cpus=0.5, memory="64m", cap_add=["net_admin"],
            cap_drop=["ALL"], read_only=True, hostname="h", label=["app=web"], tty=True, log_dir="/logs",
        )
    )  # fmt: skip
    pod, container = planned.pod, planned.container
    assert (pod.metadata.name, pod.hostname, pod.runtime_handler) == ("web", "h", "crun")
    assert (pod.port_mappings[0].host_port, pod.labels["app"]) == (8080, "web")
    assert pod.log_directory == f"/logs/default_web_{pod.metadata.uid}"
    assert (container.command, container.args, container.working_dir) == (["sh"], ["-c", "x"], "/w")
    assert (container.envs[0].value, container.mounts[0].readonly, container.tty) == (b"b", True, True)
    resources, security = container.linux.resources, container.security
    assert (resources.cpu_quota, resources.cpu_period, resources.memory_limit_in_bytes) == (50_000, 100_000, 64 << 20)
    assert (security.run_as_user, security.run_as_group, security.readonly_rootfs) == (1000, 50, True)
    assert (security.capabilities.add_capabilities, security.capabilities.drop_capabilities) == (["NET_ADMIN"], ["ALL"])


def test_privileged_hides_nothing() -> None:
    planned = plan.build(plan.Flags("busybox", privileged=True))
    security = planned.container.security
    assert planned.pod.linux.security_context.privileged  # the CRI wants both (contract 6.8)
    assert (security.privileged, security.seccomp, security.masked_paths) == (True, None, [])


def test_the_nodes_network() -> None:
    planned = plan.build(plan.Flags("busybox", host_network=True))
    assert planned.pod.host_network
    assert planned.container.security.namespace_options == planned.pod.namespaces
    assert planned.pod.hostname == ""
    with pytest.raises(Invalid, match="publish"):
        plan.build(plan.Flags("busybox", host_network=True, publish=["1:1"]))


@pytest.mark.parametrize("name", ["-x", "a/b", "../x", "a b", "x" * 64, "ä"])
def test_names_that_would_leave_their_directory(name: str) -> None:
    with pytest.raises(Invalid, match="--name"):
        plan.build(plan.Flags("busybox", name=name))


@pytest.mark.parametrize(
    ("reference", "start"), [("sha256:" + "a" * 64, "sha256-"), ("localhost:5000/a/B_c:1", "B_c-"), ("", "run-")]
)
def test_invented_names(reference: str, start: str) -> None:
    assert plan.invented(reference).startswith(start)


def test_host_names() -> None:
    assert plan.hostname("My_pod.1-") == "my-pod-1"
