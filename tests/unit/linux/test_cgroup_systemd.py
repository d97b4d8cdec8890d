from __future__ import annotations

import pytest

from ropewalk.errors import Invalid
from ropewalk.linux import cgroup_systemd
from ropewalk.spec.pod import LinuxContainerResources as Resources

ID = "0a" * 32
POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"


@pytest.mark.parametrize(
    ("wanted", "version", "booted", "driver"),
    [
        ("auto", 2, True, "systemd"),
        ("auto", 2, False, "cgroupfs"),
        ("auto", 1, True, "cgroupfs"),
        ("systemd", 1, True, "systemd"),
        ("cgroupfs", 2, True, "cgroupfs"),
        ("cgroupfs", 2, False, "cgroupfs"),
    ],
)
def test_the_driver(wanted: str, version: int, booted: bool, driver: str) -> None:
    assert cgroup_systemd.choose(wanted, version=version, booted=booted) == driver


def test_systemd_where_there_is_none() -> None:
    with pytest.raises(Invalid, match="systemd is not the init") as caught:
        cgroup_systemd.choose("systemd", version=2, booted=False)
    assert 'cgroup_driver = "cgroupfs"' in caught.value.hint


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("kubepods-burstable-pod1_2.slice", POD),
        (POD, POD),
        (POD[1:] + "/", POD),
        ("/test.slice", "/test.slice"),
        ("test.slice", "/test.slice"),
        (r"a\x2db.slice", r"/a\x2db.slice"),
    ],
)
def test_slices_are_where_their_names_say(parent: str, path: str) -> None:
    assert cgroup_systemd.parse_slice(parent) == path


@pytest.mark.parametrize(
    "parent", ["-.slice", "a--b.slice", "-a.slice", "a-.slice", "/kubepods/pod1", ".slice", "a.scope"]
)
def test_what_is_no_slice(parent: str) -> None:
    with pytest.raises(Invalid, match="is not a slice"):
        cgroup_systemd.parse_slice(parent)


def test_a_slice_elsewhere() -> None:
    with pytest.raises(Invalid, match=r"not where systemd has a-b\.slice") as caught:
        cgroup_systemd.parse_slice("/system.slice/a-b.slice")
    assert caught.value.hint == "that is /a.slice/a-b.slice"


def test_slices_of_ours() -> None:
    """Two instances have nothing in common: stopping one's slice would stop what is below it."""
    assert cgroup_systemd.own_slice("ropewalk") == "/ropewalk.slice"
    assert cgroup_systemd.own_slice("ropewalk", f"pod{ID}") == f"/ropewalk.slice/ropewalk-pod{ID}.slice"
    assert cgroup_systemd.own_slice("ropewalk-1a2b", "pod1") == "/ropewalk_1a2b.slice/ropewalk_1a2b-pod1.slice"
    for path in (cgroup_systemd.own_slice("ropewalk-1a2b", "pod1"), cgroup_systemd.own_slice("ropewalk", "pod1")):
        assert cgroup_systemd.parse_slice(cgroup_systemd.unit(path)) == path


def test_containers() -> None:
    path = cgroup_systemd.child(POD, ID)
    assert path == f"{POD}/ropewalk-{ID}.scope"
    assert cgroup_systemd.is_scope(path)
    assert not cgroup_systemd.is_slice(path)
    assert cgroup_systemd.runtime_path(path) == f"kubepods-burstable-pod1_2.slice:ropewalk:{ID}"
    plain = cgroup_systemd.child("/kubepods/pod1", ID)
    assert plain == f"/kubepods/pod1/{ID}"
    assert not cgroup_systemd.is_scope(plain)
    assert cgroup_systemd.name(path) == cgroup_systemd.name(plain) == ID


@pytest.mark.parametrize(
    ("resources", "properties"),
    [
        (Resources(), []),
        (Resources(cpu_shares=1024), ["CPUWeight=100"]),
        (Resources(cpu_quota=25000, cpu_period=100000), ["CPUQuota=25.00%", "CPUQuotaPeriodSec=100000us"]),
        (Resources(cpu_quota=250000), ["CPUQuota=250.00%"]),
        (Resources(cpu_quota=-1), ["CPUQuota="]),
        (Resources(memory_limit_in_bytes=1 << 20), ["MemoryMax=1048576", "MemorySwapMax=0"]),
        (Resources(memory_limit_in_bytes=-1), ["MemoryMax=infinity", "MemorySwapMax=infinity"]),
        (
            Resources(memory_limit_in_bytes=1 << 20, memory_swap_limit_in_bytes=3 << 20),
            ["MemoryMax=1048576", "MemorySwapMax=2097152"],
        ),
        (
            Resources(memory_limit_in_bytes=1 << 20, memory_swap_limit_in_bytes=-1),
            ["MemoryMax=1048576", "MemorySwapMax=infinity"],
        ),
        (Resources(cpuset_cpus="0-1", cpuset_mems="0"), ["AllowedCPUs=0-1", "AllowedMemoryNodes=0"]),
        (
            Resources(unified={"memory.high": "4096", "memory.min": "max", "io.weight": "default 9"}),
            ["MemoryHigh=4096", "MemoryMin=infinity"],
        ),
        (Resources(oom_score_adj=5), []),
    ],
)
def test_what_systemd_is_told_of_new_limits(resources: Resources, properties: list[str]) -> None:
    assert cgroup_systemd.properties(resources) == properties
