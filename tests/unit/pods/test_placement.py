from __future__ import annotations

import pytest
from msgspec.structs import replace

from ropewalk.errors import Invalid
from ropewalk.pods import placement
from ropewalk.pods.records import Pod, PodPhase
from ropewalk.spec.pod import LinuxPodSandboxConfig, PodSandboxMetadata, PodSpec

ID, OTHER = "0a" * 32, "0b" * 32
SLICE = "/kubepods.slice/kubepods-pod1.slice"


def spec(parent: str = "") -> PodSpec:
    metadata = PodSandboxMetadata(name="web", uid="1", namespace="default")
    return PodSpec(metadata=metadata, linux=LinuxPodSandboxConfig(cgroup_parent=parent))


def place(parent: str, driver: str) -> str:
    return placement.pod_cgroup(spec(parent), ID, instance="ropewalk-1a2b", driver=driver)


def row(cgroup: str) -> Pod:
    return Pod(id=ID, spec=spec(), phase=PodPhase.READY, handler="crun", created_at=1, boot_id="b", cgroup=cgroup)


@pytest.mark.parametrize(
    ("parent", "driver", "path"),
    [
        ("", "cgroupfs", f"/ropewalk-1a2b/pod{ID}"),
        ("/kubepods/pod1", "cgroupfs", "/kubepods/pod1"),
        ("kubepods/pod1", "cgroupfs", "/kubepods/pod1"),
        ("", "systemd", f"/ropewalk_1a2b.slice/ropewalk_1a2b-pod{ID}.slice"),
        (SLICE, "systemd", SLICE),
        ("kubepods-pod1.slice", "systemd", SLICE),
    ],
)
def test_a_pod(parent: str, driver: str, path: str) -> None:
    assert place(parent, driver) == path


@pytest.mark.parametrize(
    ("parent", "driver", "other"), [(SLICE, "cgroupfs", "systemd"), ("/kubepods/pod1", "systemd", "cgroupfs")]
)
def test_a_parent_of_the_other_driver(parent: str, driver: str, other: str) -> None:
    with pytest.raises(Invalid, match=f"is of the {other} cgroup driver, and ropewalk's is {driver}") as caught:
        place(parent, driver)
    assert f'cgroup_driver = "{other}"' in caught.value.hint


def test_what_follows_from_the_parent() -> None:
    fs, systemd = row("/kubepods/pod1"), row(SLICE)
    assert placement.container_cgroup(fs, OTHER) == f"/kubepods/pod1/{OTHER}"
    assert placement.container_cgroup(systemd, OTHER) == f"{SLICE}/ropewalk-{OTHER}.scope"
    for pod in (fs, systemd):
        assert placement.monitor_cgroup(pod) == f"{pod.cgroup}/ropewalk-monitors-{ID[:12]}"
        assert placement.container_cgroup(replace(pod, id=OTHER), ID) == placement.container_cgroup(pod, ID)


def test_both_drivers_trees_are_swept() -> None:
    assert placement.roots("ropewalk") == ["/ropewalk", "/ropewalk.slice"]
    for driver in ("systemd", "cgroupfs"):
        path = placement.pod_cgroup(spec(), ID, instance="ropewalk", driver=driver)
        assert path.rpartition("/")[0] in placement.roots("ropewalk")
