from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import cgroup
from ropewalk.linux.cgroup_v1 import CgroupsV1
from ropewalk.spec.pod import HugepageLimit, LinuxContainerResources

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids")
STAT = b"""cache 1
rss 2
inactive_file 3
hierarchical_memory_limit 1000
hierarchical_memsw_limit 1500
total_cache 10
total_rss 20
total_swap 25
total_pgfault 30
total_pgmajfault 40
total_inactive_file 50
"""


class Tree:
    """A cgroup v1 tree of ordinary files with one cgroup, /pod, and what was written to it, in order."""

    def __init__(self, root: Path, *controllers: str) -> None:
        self.root = root
        self.writes: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], int] = {}
        for name in controllers:
            (root / name / "pod").mkdir(parents=True)
        self.cgroups = CgroupsV1({name: str(root / name) for name in controllers})

    def put(self, controller: str, file: str, content: str | bytes = "") -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (self.root / controller / "pod" / file).write_bytes(data)

    def write(self, path: str, value: str) -> None:
        file = Path(path).name
        if error := self.refuse.pop((file, value), 0):
            raise OSError(error, "refused", path)
        self.writes.append((file, value))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path, *CONTROLLERS)
    monkeypatch.setattr(cgroup, "write", tree.write)
    return tree


def test_problems_of_a_hybrid_node_name_the_cure(tmp_path: Path) -> None:
    hierarchies = {name: f"{tmp_path}/{name}" for name in CONTROLLERS}
    assert CgroupsV1(hierarchies).problem() == ""
    unified = tmp_path / "unified"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("\n")
    assert CgroupsV1(hierarchies, str(unified)).problem() == ""
    (unified / "cgroup.controllers").write_text("hugetlb\n")
    assert CgroupsV1(hierarchies, str(unified)).problem() == (
        "hybrid cgroups: the cgroup v2 mount owns hugetlb, which crun refuses; "
        f"mkdir {tmp_path}/hugetlb; mount -t cgroup -o hugetlb hugetlb {tmp_path}/hugetlb"
    )
    del hierarchies["pids"]
    assert "cgroup v1 without pids" in CgroupsV1(hierarchies).problem()


def test_statistics(tree: Tree) -> None:
    tree.put("memory", "memory.stat", STAT)
    tree.put("memory", "memory.usage_in_bytes", "300\n")
    tree.put("cpuacct", "cpuacct.usage", "123456789\n")
    tree.put("pids", "pids.current", "7\n")
    assert tree.cgroups.stats("/pod") == cgroup.CgroupStats(
        cpu_usage_ns=123456789,
        memory_usage=300,
        memory_working_set=250,
        memory_rss=20,
        page_faults=30,
        major_page_faults=40,
        memory_limit=1000,
        swap_usage=25,
        swap_limit=500,
        pids=7,
    )


def test_statistics_without_limits_or_swap_accounting(tree: Tree) -> None:
    tree.put("memory", "memory.stat", b"hierarchical_memory_limit 9223372036854771712\ntotal_inactive_file 50\n")
    tree.put("memory", "memory.usage_in_bytes", "30\n")
    found = tree.cgroups.stats("/pod")
    assert found == cgroup.CgroupStats(memory_usage=30, memory_working_set=0)


def test_a_cgroup_that_is_gone_has_no_statistics(tree: Tree) -> None:
    assert tree.cgroups.stats("/gone") is None
    assert tree.cgroups.oom_kills("/gone") is None


def test_the_oom_counter(tree: Tree) -> None:
    tree.put("memory", "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert tree.cgroups.oom_kills("/pod") == 3
    (tree.root / "memory/pod/below").mkdir()
    tree.put("memory", "below/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert tree.cgroups.oom_kills("/pod") == 4


def test_processes_of_all_hierarchies_and_below(tree: Tree) -> None:
    (tree.root / "memory/pod/below").mkdir()
    tree.put("memory", "cgroup.procs", "3\n0\n")
    tree.put("memory", "below/cgroup.procs", "5\n")
    tree.put("pids", "cgroup.procs", "3\n4\n")
    assert tree.cgroups.processes("/pod") == [3, 4, 5]


@pytest.mark.parametrize(
    ("current", "limit", "swap", "expected"),
    [
        (1000, 500, 0, [("memory.limit_in_bytes", "500"), ("memory.memsw.limit_in_bytes", "500")]),
        (1000, 2000, 0, [("memory.memsw.limit_in_bytes", "2000"), ("memory.limit_in_bytes", "2000")]),
        (1000, 500, 800, [("memory.limit_in_bytes", "500"), ("memory.memsw.limit_in_bytes", "800")]),
        (1000, 1500, 3000, [("memory.memsw.limit_in_bytes", "3000"), ("memory.limit_in_bytes", "1500")]),
        (1000, 0, 3000, [("memory.memsw.limit_in_bytes", "3000")]),
        (1000, -1, 0, [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]),
        (None, 500, 0, [("memory.limit_in_bytes", "500")]),
        (None, 500, 500, [("memory.limit_in_bytes", "500")]),
    ],
)
def test_memory_and_swap_move_in_the_order_that_is_always_allowed(
    tree: Tree, current: int | None, limit: int, swap: int, expected: list[tuple[str, str]]
) -> None:
    if current is not None:
        tree.put("memory", "memory.memsw.limit_in_bytes", f"{current}\n")
    tree.cgroups.update("/pod", LinuxContainerResources(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap))
    assert tree.writes == expected


def test_a_swap_limit_without_swap_accounting_is_refused(tree: Tree) -> None:
    with pytest.raises(errors.Unsupported, match="does not account swap"):
        tree.cgroups.update("/pod", LinuxContainerResources(memory_limit_in_bytes=500, memory_swap_limit_in_bytes=900))


def test_cpu_and_cpuset(tree: Tree) -> None:
    resources = LinuxContainerResources(
        cpu_shares=512, cpu_period=50000, cpu_quota=25000, cpuset_cpus="0-1", cpuset_mems="0"
    )
    tree.cgroups.update("/pod", resources)
    assert tree.writes == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "50000"),
        ("cpu.cfs_quota_us", "25000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]


def test_quota_first_where_the_period_alone_would_exceed_the_parent(tree: Tree) -> None:
    tree.refuse[("cpu.cfs_period_us", "50000")] = errno.EINVAL
    tree.cgroups.update("/pod", LinuxContainerResources(cpu_period=50000, cpu_quota=25000))
    assert tree.writes == [("cpu.cfs_quota_us", "25000"), ("cpu.cfs_period_us", "50000")]


def test_zero_means_not_set(tree: Tree) -> None:
    tree.cgroups.update("/pod", LinuxContainerResources())
    assert tree.writes == []


def test_huge_pages(tree: Tree, tmp_path: Path) -> None:
    tree.cgroups.update("/pod", LinuxContainerResources(hugepage_limits=[HugepageLimit("2MB", 0)]))
    with pytest.raises(errors.Unsupported, match="hugetlb is not mounted"):
        tree.cgroups.update("/pod", LinuxContainerResources(hugepage_limits=[HugepageLimit("2MB", 4096)]))
    with_controller = Tree(tmp_path / "other", "hugetlb")
    with_controller.put("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes")
    with_controller.cgroups.update("/pod", LinuxContainerResources(hugepage_limits=[HugepageLimit("2MB", 0)]))
    assert tree.writes == [("hugetlb.2MB.limit_in_bytes", "0"), ("hugetlb.2MB.rsvd.limit_in_bytes", "0")]


def test_what_only_v2_has_is_refused(tree: Tree) -> None:
    with pytest.raises(errors.Invalid, match=r"memory\.high.*need cgroup v2"):
        tree.cgroups.update("/pod", LinuxContainerResources(unified={"memory.high": "1"}))


@pytest.mark.parametrize(("error", "kind"), [(errno.EINVAL, errors.Kind.INVALID), (errno.EBUSY, errors.Kind.STATE)])
def test_what_the_kernel_refuses_names_file_and_value(tree: Tree, error: int, kind: errors.Kind) -> None:
    tree.refuse[("memory.limit_in_bytes", "5")] = error
    with pytest.raises(errors.RopewalkError, match=r"memory\.limit_in_bytes cannot be set to 5") as caught:
        tree.cgroups.update("/pod", LinuxContainerResources(memory_limit_in_bytes=5))
    assert caught.value.kind is kind


def test_a_move_is_expected_by_moving_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path, *CONTROLLERS)
    monkeypatch.setattr(cgroup, "read", lambda path: b"4:memory:/other\n3:pids,misc:/pod\n0::/\n")
    tree.put("pids", "cgroup.procs")
    tree.cgroups.expect_move().join()
    assert (tmp_path / "pids/pod/cgroup.procs").read_text() == "0"


def test_a_cgroup_that_is_made_for_some_controllers_is_made_for_no_other(tree: Tree) -> None:
    tree.cgroups.make("/pod/leaf", controllers=["cpu", "memory"])
    assert sorted(path.parent.parent.name for path in tree.root.glob("*/pod/leaf")) == ["cpu", "memory"]
    tree.cgroups.add("/pod/leaf", 7, controllers=["cpu", "memory"])
    assert tree.writes == [("cgroup.procs", "7")] * 2
