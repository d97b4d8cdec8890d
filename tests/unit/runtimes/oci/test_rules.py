"""Namespaces, resources, security modules, annotations: one table each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk import errors
from ropewalk.errors import Kind
from ropewalk.runtimes.oci import annotations as runtime_annotations
from ropewalk.runtimes.oci import facts, namespaces, resources, security
from ropewalk.spec import container, pod
from tests.unit.runtimes.oci import samples

POD, CONTAINER, HOST, TARGET = pod.NamespaceMode
Resources = pod.LinuxContainerResources
Profile = pod.SecurityProfile
Security = container.LinuxContainerSecurityContext
V1, V2 = facts.NodeFacts(cgroup_version=1), facts.NodeFacts()


def in_namespaces(
    pods: pod.NamespaceMode, own: pod.NamespaceMode, *, node: facts.NodeFacts = V2, **flags: Any
) -> dict[str, str]:
    """OCI type -> path ("" for an own one)."""
    options = pod.NamespaceOption(pid=own, target_id="x")
    privileged = bool(flags.pop("privileged", False))
    spec = samples.container_spec(samples.security(namespace_options=options, privileged=privileged))
    found = namespaces.build(samples.pod_spec(pid=pods, **flags), spec, samples.NAMESPACES, node)
    assert len({entry["type"] for entry in found}) == len(found)
    return {entry["type"]: entry.get("path", "") for entry in found}


@pytest.mark.parametrize(
    ("pods", "own", "expected"),
    [
        (POD, POD, "joined"), (POD, CONTAINER, "own"), (POD, TARGET, "joined"), (CONTAINER, CONTAINER, "own"),
        (CONTAINER, POD, "own"), (CONTAINER, TARGET, "joined"), (HOST, HOST, None), (HOST, POD, None),
        (HOST, CONTAINER, "own"),
    ],
)  # fmt: skip
def test_pid(pods: pod.NamespaceMode, own: pod.NamespaceMode, expected: str | None) -> None:
    path = in_namespaces(pods, own).get("pid")
    assert path == {"joined": samples.NAMESPACES["pid"], "own": "", None: None}[expected]


@pytest.mark.parametrize("pods", [POD, CONTAINER])
def test_a_container_cannot_leave_for_the_nodes_pids(pods: pod.NamespaceMode) -> None:
    with pytest.raises(errors.Invalid, match="is NODE, and its pod has"):
        in_namespaces(pods, HOST)


def test_uts_goes_with_the_network_and_cgroup_with_v2() -> None:
    assert set(in_namespaces(CONTAINER, CONTAINER)) == {"mount", "network", "uts", "ipc", "pid", "cgroup"}
    assert set(in_namespaces(CONTAINER, CONTAINER, network=HOST)) == {"mount", "ipc", "pid", "cgroup"}
    assert set(in_namespaces(CONTAINER, CONTAINER, ipc=HOST)) == {"mount", "network", "uts", "pid", "cgroup"}
    assert "cgroup" not in in_namespaces(CONTAINER, CONTAINER, node=V1)
    assert "cgroup" not in in_namespaces(CONTAINER, CONTAINER, privileged=True)


def test_a_missing_pin_is_never_an_own_or_the_nodes_namespace() -> None:
    with pytest.raises(errors.RopewalkError, match="no network namespace") as caught:
        namespaces.build(samples.pod_spec(), samples.container_spec(), {}, V2)
    assert caught.value.kind is Kind.INTERNAL


def test_resources_zero_is_not_set() -> None:
    assert resources.build(Resources(), V2) == {}
    assert resources.build(Resources(cpu_quota=-1), V2) == {"cpu": {"quota": -1}}


def test_memory_and_swap() -> None:
    def memory(limit: int, swap: int, node: facts.NodeFacts) -> Any:
        limits = Resources(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap)
        return resources.build(limits, node).get("memory")

    none = facts.NodeFacts(swap=False)
    assert memory(100, 0, V2) == {"limit": 100, "swap": 100}
    assert memory(100, 150, V2) == {"limit": 100, "swap": 150}
    assert memory(100, 150, none) == {"limit": 100}
    assert memory(0, 0, V2) is None
    assert memory(0, 150, V2) == {"swap": 150}
    with pytest.raises(errors.Invalid, match="memory_swap_limit_in_bytes is 50"):
        memory(100, 50, V2)


def test_hugepages() -> None:
    node = facts.NodeFacts(hugepage_sizes=frozenset({"2MB"}))
    limits = [pod.HugepageLimit("2MB", 0), pod.HugepageLimit("1GB", 0)]
    assert resources.build(Resources(hugepage_limits=limits), V2) == {}
    assert resources.build(Resources(hugepage_limits=limits), node) == {
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]
    }
    with pytest.raises(errors.Unsupported, match="1GB"):
        resources.build(Resources(hugepage_limits=[pod.HugepageLimit("1GB", 1 << 30)]), node)


def test_unified() -> None:
    limits = Resources(unified={"memory.high": "max", "io.weight": "default 100"})
    assert resources.build(limits, V2) == {"unified": limits.unified}
    with pytest.raises(errors.Invalid, match="cgroup v1"):
        resources.build(limits, V1)


def test_the_weight_does_not_depend_on_the_runtimes_version() -> None:
    assert resources.build(Resources(cpu_shares=1024), V2) == {
        "cpu": {"shares": 1024},
        "unified": {"cpu.weight": "100"},
    }
    assert resources.build(Resources(cpu_shares=1024), V1) == {"cpu": {"shares": 1024}}
    given = Resources(cpu_shares=1024, unified={"cpu.weight": "7"})
    assert resources.build(given, V2)["unified"] == given.unified


@pytest.mark.parametrize(
    "limits",
    [
        Resources(cpu_shares=-2), Resources(cpu_period=-1), Resources(oom_score_adj=1001),
        Resources(oom_score_adj=-1001), Resources(cpuset_cpus="0-"), Resources(cpuset_mems="a"),
        Resources(cpuset_cpus="0,1\n"), Resources(hugepage_limits=[pod.HugepageLimit("2 MB", 1)]),
        Resources(hugepage_limits=[pod.HugepageLimit("../x", 1)]), Resources(unified={"../memory.max": "1"}),
        Resources(unified={"memory/max": "1"}), Resources(unified={"cgroup.procs": "1"}),
        Resources(unified={"memory.max": "1\n2"}), Resources(unified={"": "1"}), Resources(unified={"memory": "1"}),
    ],
)  # fmt: skip
def test_bad_resources_are_refused(limits: Resources) -> None:
    with pytest.raises(errors.Invalid, match=r"linux\.resources"):
        resources.build(limits, V2)


def test_oom_score_is_clamped_only_where_it_must_be() -> None:
    bound = facts.NodeFacts(can_lower_oom=False, oom_score_adj=10)
    scores = [resources.oom_score_adj(Resources(oom_score_adj=score), bound) for score in (-1000, 0, 10, 999)]
    assert scores == [10, 10, 10, 999]
    assert resources.oom_score_adj(Resources(oom_score_adj=-997), V2) == -997


LOADED = facts.NodeFacts(apparmor=True, apparmor_default="ropewalk-default", apparmor_profiles=frozenset({"mine"}))
DEFAULT, UNCONFINED, LOCALHOST = pod.ProfileType


@pytest.mark.parametrize(
    ("context", "with_lsm", "without"),
    [
        (Security(), "ropewalk-default", ""),
        (Security(apparmor=Profile(UNCONFINED)), "unconfined", ""),
        (Security(apparmor=Profile(DEFAULT)), "ropewalk-default", None),
        (Security(apparmor=Profile(LOCALHOST, "mine")), "mine", None),
        (Security(apparmor=Profile(LOCALHOST, "localhost/mine")), "mine", None),
        (Security(apparmor=Profile(LOCALHOST, "other")), None, None),
        (Security(apparmor=Profile(LOCALHOST)), None, None),
        (Security(apparmor=Profile(DEFAULT, "mine")), None, None),
        (Security(apparmor_profile="localhost/mine"), "mine", None),
        (Security(apparmor_profile="unconfined"), "unconfined", ""),
        (Security(apparmor_profile="runtime/default"), "ropewalk-default", None),
        (Security(apparmor_profile="mine"), None, None),
        (Security(apparmor=Profile(LOCALHOST, "mine"), apparmor_profile="localhost/other"), "mine", None),
        (Security(apparmor=Profile(LOCALHOST, "mine"), privileged=True), "mine", None),
        (Security(apparmor=Profile(LOCALHOST, "other"), privileged=True), None, None),
        (Security(apparmor=Profile(DEFAULT), privileged=True), "", None),
        (Security(apparmor=Profile(UNCONFINED), privileged=True), "unconfined", ""),
        (Security(privileged=True), "", ""),
    ],
)
def test_apparmor(context: Security, with_lsm: str | None, without: str | None) -> None:
    for node, expected in ((LOADED, with_lsm), (V2, without)):
        if expected is None:
            with pytest.raises(errors.Invalid):
                security.apparmor(context, node)
        else:
            assert security.apparmor(context, node) == expected


def test_apparmor_without_a_default_profile() -> None:
    node = facts.NodeFacts(apparmor=True, apparmor_problem="no apparmor_parser on this node: apt-get install apparmor")
    assert security.apparmor(Security(), node) == ""
    with pytest.raises(errors.Unsupported, match="no default profile") as caught:
        security.apparmor(Security(apparmor=Profile()), node)
    assert "apt-get install apparmor" in caught.value.hint


@pytest.mark.parametrize(
    ("context", "named", "default"),
    [
        (Security(), "", True),
        (Security(apparmor=Profile(DEFAULT)), "", True),
        (Security(apparmor_profile="runtime/default"), "", True),
        (Security(apparmor=Profile(UNCONFINED), apparmor_profile="localhost/mine"), "", False),
        (Security(apparmor=Profile(LOCALHOST, "localhost/mine")), "mine", False),
        (Security(apparmor_profile="localhost/mine"), "mine", False),
        (Security(apparmor=Profile(LOCALHOST, "mine"), privileged=True), "mine", False),
        (Security(privileged=True), "", False),
        (Security(apparmor=Profile(DEFAULT), privileged=True), "", False),
    ],
)
def test_what_must_be_loaded(context: Security, named: str, *, default: bool) -> None:
    assert security.named_apparmor(context) == named
    assert security.wants_default_apparmor(context) is default


def test_paths_are_given_as_they_are() -> None:
    context = Security(masked_paths=["/proc/kcore", "/x"], readonly_paths=["/proc/sys"])
    assert security.masked_paths(context) == ["/proc/kcore", "/x"]
    assert security.readonly_paths(context) == ["/proc/sys"]
    assert security.masked_paths(Security()) == []
    assert security.masked_paths(Security(masked_paths=["/x"], privileged=True)) == []
    for bad in ("x", "/a/../b", "", "/a\0"):
        with pytest.raises(errors.Invalid, match="masked_paths"):
            security.masked_paths(Security(masked_paths=[bad]))


def marks(allow: list[str], **given: str) -> dict[str, str]:
    spec = samples.container_spec(annotations={key.replace("__", "/"): value for key, value in given.items()})
    return runtime_annotations.of_container(samples.pod_spec(), spec, sandbox_id="s", allow=allow)


def test_no_annotation_of_the_request_passes_by_default() -> None:
    found = marks([])
    assert all(key.startswith(("io.kubernetes.cri.", "io.kubernetes.cri-o.")) for key in found)
    assert found["io.kubernetes.cri.container-type"] == found["io.kubernetes.cri-o.ContainerType"] == "container"
    assert found["io.kubernetes.cri.sandbox-id"] == found["io.kubernetes.cri-o.SandboxID"] == "s"
    assert found["io.kubernetes.cri.image-name"] == "docker.io/library/app:1"


def test_the_handlers_allow_list_opens_keys_but_never_the_dangerous_ones() -> None:
    spec = samples.container_spec(
        annotations={
            "run.oci.handler": "krun",
            "krun.cpus": "2",
            "run.oci.seccomp_bpf_data": "AAAA",
            "run.oci.hooks.stdout": "/x",
            "run.oci.systemd.subgroup": "x",
            "run.oci.delegate-cgroup": "x",
            "org.systemd.property.ExecStart": "x",
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "other",
            "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel": "true",
        }
    )
    found = runtime_annotations.of_container(samples.pod_spec(), spec, sandbox_id="s", allow=["*"])
    assert "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel" not in found
    ours = {
        key: value for key, value in found.items() if key.startswith(("io.kubernetes.cri.", "io.kubernetes.cri-o."))
    }
    theirs = {key: value for key, value in found.items() if key not in ours}
    assert theirs == {
        "run.oci.handler": "krun",
        "krun.cpus": "2",
    }
    assert ours["io.kubernetes.cri.container-type"] == "container"
    assert ours["io.kubernetes.cri.sandbox-id"] == "s"
    one = runtime_annotations.of_container(samples.pod_spec(), spec, sandbox_id="s", allow=["krun.*"])
    assert "krun.cpus" in one
    assert "run.oci.handler" not in one


def test_whoever_runs_the_node_decides_over_the_pod() -> None:
    given = {"run.oci.handler": "krun", "a": "pod"}
    spec, owner = samples.container_spec(annotations=given), {"run.oci.handler": "wasm"}
    found = runtime_annotations.of_container(samples.pod_spec(), spec, sandbox_id="s", allow=["*"], fixed=owner)
    assert (found["run.oci.handler"], found["a"]) == ("wasm", "pod")
    assert runtime_annotations.of_sandbox(samples.pod_spec(), sandbox_id="s", fixed=owner)["run.oci.handler"] == "wasm"


def test_a_sandbox_tells_how_much_the_pod_may_use() -> None:
    limits = pod.LinuxContainerResources(cpu_period=100_000, cpu_quota=50_000, memory_limit_in_bytes=1 << 28)
    linux = pod.LinuxPodSandboxConfig(resources=limits, overhead=pod.LinuxContainerResources(memory_limit_in_bytes=1))
    found = runtime_annotations.of_sandbox(replace(samples.pod_spec(), linux=linux), sandbox_id="s")
    assert found["io.kubernetes.cri.container-type"] == found["io.kubernetes.cri-o.ContainerType"] == "sandbox"
    assert found["io.kubernetes.cri.sandbox-cpu-quota"] == "50000"
    assert found["io.kubernetes.cri.sandbox-memory"] == str(1 << 28)
    told = json.loads(found["io.kubernetes.cri-o.PodLinuxResources"])
    assert told == {"cpu_period": 100_000, "cpu_quota": 50_000, "memory_limit_in_bytes": 1 << 28}
    assert json.loads(found["io.kubernetes.cri-o.PodLinuxOverhead"]) == {"memory_limit_in_bytes": 1}
