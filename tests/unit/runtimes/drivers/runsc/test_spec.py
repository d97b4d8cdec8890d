"""What reaches runsc of a runtime spec."""

from __future__ import annotations

from typing import Any

from ropewalk.runtimes.drivers.runsc import spec

SPEC: dict[str, Any] = {
    "process": {"args": ["sh"], "apparmorProfile": "one", "selinuxLabel": "two"},
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "mine": "kept"},
    "linux": {
        "cgroupsPath": "/pod/one",
        "namespaces": [{"type": "mount"}, {"type": "network", "path": "/run/netns/one"}, {"type": "pid"}],
        "resources": {"memory": {"limit": 1}},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
        "devices": [{"path": "/dev/loop0", "type": "b", "major": 7, "minor": 0}],
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/proc/kcore"],
    },
}


def test_a_pod_keeps_its_network_and_cgroup_and_gets_a_host_name() -> None:
    given = spec.of_pod(SPEC, "web")
    assert given["hostname"] == "web"
    assert given["linux"]["cgroupsPath"] == "/pod/one"
    assert {"type": "network", "path": "/run/netns/one"} in given["linux"]["namespaces"]


def test_what_would_break_a_sentry_or_is_ignored_is_left_out() -> None:
    for given in (spec.of_pod(SPEC, "web"), spec.of_container(SPEC, "pod")):
        assert set(given["linux"]) == {"cgroupsPath", "namespaces", "maskedPaths"}
        assert given["process"] == {"args": ["sh"]}
    assert "seccomp" in SPEC["linux"]  # the original is untouched


def test_a_container_joins_its_pod_by_both_families_of_annotations() -> None:
    annotations = spec.of_container(SPEC, "pod")["annotations"]
    assert annotations == {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "pod",
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.SandboxID": "pod",
        "mine": "kept",
    }


def test_the_pods_processes_are_shared_by_leaving_the_namespace_out() -> None:
    joined = {"type": "pid", "path": "/proc/7/ns/pid"}
    shared = {**SPEC, "linux": {**SPEC["linux"], "namespaces": [{"type": "mount"}, joined]}}
    assert spec.of_container(shared, "pod")["linux"]["namespaces"] == [{"type": "mount"}]
    assert {"type": "pid"} in spec.of_container(SPEC, "pod")["linux"]["namespaces"]
