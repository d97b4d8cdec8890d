from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import cgroup
from ropewalk.linux.cgroup_v2 import CgroupsV2, parse_pressure, plan_swap, plan_update, weight
from ropewalk.spec.pod import HugepageLimit, LinuxContainerResources

PRESSURE = b"some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cgroup v2 tree of ordinary files with one cgroup, /pod."""
    (tmp_path / "pod").mkdir()
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    return tmp_path


def put(root: Path, **files: str) -> None:
    for name, content in files.items():
        (root / "pod" / name.replace("__", ".")).write_text(content)


def test_statistics(root: Path) -> None:
    put(root, cpu__stat="usage_usec 1500\nuser_usec 1000\n", memory__current="4096\n", memory__max="8192\n")
    put(root, memory__stat="anon 100\nfile 7\ninactive_file 96\npgfault 5\npgmajfault 6\n", pids__current="2\n")
    put(root, memory__swap__current="10\n", memory__swap__max="max\n")
    (root / "pod/cpu.pressure").write_bytes(PRESSURE)
    assert CgroupsV2(str(root)).stats("/pod") == cgroup.CgroupStats(
        cpu_usage_ns=1_500_000,
        memory_usage=4096,
        memory_working_set=4000,
        memory_rss=100,
        page_faults=5,
        major_page_faults=6,
        memory_limit=8192,
        swap_usage=10,
        swap_limit=None,
        pids=2,
        cpu_psi=parse_pressure(PRESSURE),
    )
    assert CgroupsV2(str(root)).stats("/gone") is None


def test_what_this_kernel_does_not_count_is_unknown(root: Path) -> None:
    """Without swap accounting, and with PSI off: its file is there and cannot be read."""
    put(root, cpu__stat="usage_usec 1500\n", memory__current="4096\n")
    (root / "pod/cpu.pressure").mkdir()
    stats = CgroupsV2(str(root)).stats("/pod")
    assert stats is not None
    assert (stats.cpu_usage_ns, stats.memory_usage) == (1_500_000, 4096)
    assert (stats.cpu_psi, stats.memory_psi, stats.swap_usage, stats.swap_limit) == (None, None, None, None)


def test_pressure_is_nanoseconds_and_percent() -> None:
    assert parse_pressure(PRESSURE) == cgroup.Psi(
        some=cgroup.Pressure(42_000, 1.5, 0.25, 0.0), full=cgroup.Pressure(7_000, 0.0, 0.0, 0.1)
    )
    assert parse_pressure(b"") is None


def test_the_oom_counter(root: Path) -> None:
    put(root, memory__events="low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert CgroupsV2(str(root)).oom_kills("/pod") == 3
    assert CgroupsV2(str(root)).oom_kills("/gone") is None


def test_controllers_are_given_to_the_children_of_every_ancestor(root: Path) -> None:
    (root / "pod/cgroup.controllers").write_text("cpu memory\n")
    (root / "pod/cgroup.subtree_control").write_text("\n")
    CgroupsV2(str(root)).make("/pod/container")
    assert (root / "cgroup.subtree_control").read_text() == "+cpuset +cpu +io +hugetlb +pids"
    assert (root / "pod/cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (root / "pod/container").is_dir()


def test_problems(root: Path) -> None:
    assert CgroupsV2(str(root)).problem() == ""
    (root / "cgroup.type").write_text("domain\n")  # only the real root lacks it
    assert CgroupsV2(str(root)).problem() == ""
    (root / "cgroup.procs").write_text("1\n")
    assert "holds processes" in CgroupsV2(str(root)).problem()
    (root / "cgroup.controllers").write_text("cpuset memory\n")
    assert "lacks cpu, pids" in CgroupsV2(str(root)).problem()


@pytest.mark.parametrize(
    ("shares", "expected"),
    [(0, 1), (2, 1), (512, 59), (1024, 100), (2048, 174), (262143, 10000), (262144, 10000), (1 << 30, 10000)],
)
def test_shares_become_weights(shares: int, expected: int) -> None:
    assert weight(shares) == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (LinuxContainerResources(), []),
        (LinuxContainerResources(cpu_shares=1024), [("cpu.weight", "100")]),
        (LinuxContainerResources(cpu_quota=5000, cpu_period=10000), [("cpu.max", "5000 10000")]),
        (LinuxContainerResources(cpu_quota=5000), [("cpu.max", "5000")]),
        (LinuxContainerResources(cpu_quota=-1, cpu_period=10000), [("cpu.max", "max 10000")]),
        (LinuxContainerResources(memory_limit_in_bytes=4096), [("memory.max", "4096")]),
        (LinuxContainerResources(memory_limit_in_bytes=-1), [("memory.max", "max")]),
        (LinuxContainerResources(cpuset_cpus="0", cpuset_mems="0"), [("cpuset.cpus", "0"), ("cpuset.mems", "0")]),
    ],
)
def test_what_an_update_writes(resources: LinuxContainerResources, expected: list[tuple[str, str]]) -> None:
    assert plan_update(resources) == expected


@pytest.mark.parametrize(
    ("memory", "total", "expected"),
    [(0, 0, ""), (100, 0, "0"), (-1, 0, "max"), (100, -1, "max"), (100, 100, "0"), (100, 150, "50")],
)
def test_the_swap_limit_is_the_total_less_memory(memory: int, total: int, expected: str) -> None:
    resources = LinuxContainerResources(memory_limit_in_bytes=memory, memory_swap_limit_in_bytes=total)
    assert plan_swap(resources) == expected


@pytest.mark.parametrize(("memory", "total"), [(100, 50), (0, 50), (-1, 50)])
def test_a_total_below_memory_is_refused(memory: int, total: int) -> None:
    with pytest.raises(errors.Invalid):
        plan_swap(LinuxContainerResources(memory_limit_in_bytes=memory, memory_swap_limit_in_bytes=total))


def test_an_update_reaches_the_files(root: Path) -> None:
    put(root, memory__max="", memory__swap__max="", hugetlb__2MB__max="", memory__high="")
    resources = LinuxContainerResources(
        memory_limit_in_bytes=4096,
        hugepage_limits=[HugepageLimit("2MB", 8192), HugepageLimit("1GB", 0)],
        unified={"memory.high": "1000"},
    )
    CgroupsV2(str(root)).update("/pod", resources)
    written = {file.name: file.read_text() for file in (root / "pod").iterdir()}
    assert written == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "hugetlb.2MB.max": "8192",
        "memory.high": "1000",
    }


def test_no_swap_accounting_is_fine_unless_swap_was_asked_for(root: Path) -> None:
    put(root, memory__max="")
    CgroupsV2(str(root)).update("/pod", LinuxContainerResources(memory_limit_in_bytes=4096))
    with pytest.raises(errors.Unsupported, match=r"memory\.swap\.max"):
        CgroupsV2(str(root)).update(
            "/pod", LinuxContainerResources(memory_limit_in_bytes=4096, memory_swap_limit_in_bytes=8192)
        )


@pytest.mark.parametrize("key", ["cgroup.procs", "../cgroup.procs", "memory.none", "a/b"])
def test_unified_settings_must_be_settings_of_this_cgroup(root: Path, key: str) -> None:
    put(root, cgroup__procs="")
    with pytest.raises(errors.Invalid, match="is not a setting"):
        CgroupsV2(str(root)).update("/pod", LinuxContainerResources(unified={key: "1"}))


def test_a_memory_limit_below_what_must_stay_is_refused_before_anything_is_written(root: Path) -> None:
    """cgroup v1's kernel says EBUSY; v2's would kill."""
    put(root, memory__current="10000\n", memory__max="max\n", memory__swap__max="", cpu__weight="100\n")
    put(root, memory__stat="anon 4000\nactive_file 2000\ninactive_file 1000\nslab_reclaimable 1000\n")
    limited = LinuxContainerResources(memory_limit_in_bytes=5999, memory_swap_limit_in_bytes=5999, cpu_shares=2)
    with pytest.raises(errors.RopewalkError, match=r"memory\.max cannot be set to 5999: 6000 bytes") as caught:
        CgroupsV2(str(root)).update("/pod", limited)
    assert caught.value.kind is errors.Kind.STATE
    assert (root / "pod/cpu.weight").read_text() == "100\n"
    CgroupsV2(str(root)).update("/pod", LinuxContainerResources(memory_limit_in_bytes=6000))
    assert (root / "pod/memory.max").read_text() == "6000"


def test_a_memory_limit_that_does_not_shrink_is_set_whatever_is_in_use(root: Path) -> None:
    """The kernel may charge a little more than the limit."""
    put(root, memory__current="4100\n", memory__max="4096\n", memory__swap__max="", memory__stat="anon 4100\n")
    CgroupsV2(str(root)).update("/pod", LinuxContainerResources(memory_limit_in_bytes=4096))


def test_a_wrong_total_is_refused_before_anything_is_written(root: Path) -> None:
    put(root, memory__max="max\n", memory__swap__max="max\n")
    with pytest.raises(errors.Invalid):
        CgroupsV2(str(root)).update(
            "/pod", LinuxContainerResources(memory_limit_in_bytes=100, memory_swap_limit_in_bytes=50)
        )
    assert (root / "pod/memory.max").read_text() == "max\n"


def test_an_update_of_what_is_gone_is_not_found(root: Path) -> None:
    with pytest.raises(errors.NotFound):
        CgroupsV2(str(root)).update("/gone", LinuxContainerResources(cpu_shares=2))


def test_a_move_is_expected_by_moving_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "read", lambda path: b"1:name=x:/a\n0::/system.slice/ropewalk.service\n")
    file = root / "system.slice/ropewalk.service/cgroup.procs"
    CgroupsV2(str(root)).expect_move().join()  # without the file, nothing is raised
    file.parent.mkdir(parents=True)
    file.write_text("")
    CgroupsV2(str(root)).expect_move().join()
    assert file.read_text() == "0"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_we_are_may_not_be_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "read", lambda path: b"0::/../elsewhere\n")
    CgroupsV2(str(root)).expect_move().join()


@pytest.mark.parametrize("call", ["open", "write"])
async def test_a_cgroup_that_goes_while_it_is_killed_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The kernel says ENODEV to who has the file open, or is about to."""
    put(root, cgroup__kill="", cgroup__procs="")

    def gone(*_: object) -> int:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(os, call, gone)
    assert call == "write" or cgroup.read(str(root / "pod/cgroup.procs")) == b""
    await CgroupsV2(str(root)).kill("/pod")
    with pytest.raises(FileNotFoundError, match=r"cgroup\.kill"):
        cgroup.write(str(root / "pod/cgroup.kill"), "1")
