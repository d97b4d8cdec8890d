"""cgroup v1: one hierarchy per controller (Documentation/admin-guide/cgroup-v1)."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Mapping

from ropewalk import errors
from ropewalk.linux import cgroup, held
from ropewalk.spec import pod

REQUIRED = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids")
CONTROLLERS = frozenset((*REQUIRED, "blkio", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"))

FREEZE_SECONDS = 0.05


class CgroupsV1(cgroup.Cgroups):
    """`hierarchies` maps controllers (and "name=systemd") to mount points, `unified` is the v2 mount beside them."""

    version = 1

    def __init__(self, hierarchies: Mapping[str, str], unified: str = "") -> None:
        self._hierarchies = dict(hierarchies)
        self._roots = list(dict.fromkeys(hierarchies.values()))  # cpu and cpuacct are often one mount
        self._unified = unified
        self.held = held.Held()
        named = [root for name, root in hierarchies.items() if name.startswith("name=")]
        self._tracking = [*named, unified] if unified else named  # by these systemd knows whose a process is

    def problem(self) -> str:
        missing = [name for name in REQUIRED if name not in self._hierarchies]
        if missing:
            return f"cgroup v1 without {', '.join(missing)}; mount -t cgroup -o NAME NAME /sys/fs/cgroup/NAME for each"
        taken = cgroup.read(os.path.join(self._unified, "cgroup.controllers")).decode().split() if self._unified else []
        if not taken:
            return ""
        base = os.path.dirname(self._hierarchies["memory"])
        fixes = "; ".join(f"mkdir {base}/{name}; mount -t cgroup -o {name} {name} {base}/{name}" for name in taken)
        verb = "owns" if len(taken) == 1 else "own"
        return f"hybrid cgroups: the cgroup v2 mount {verb} {', '.join(taken)}, which crun refuses; {fixes}"

    def controllers(self) -> frozenset[str]:
        return frozenset(name for name in self._hierarchies if name in CONTROLLERS)

    def directory(self, path: str, controller: str) -> str:
        """`path` in one hierarchy. Unsupported if this node does not mount it."""
        root = self._hierarchies.get(controller)
        if root is None:
            raise errors.Unsupported(f"the cgroup v1 controller {controller} is not mounted on this node")
        return os.path.join(root, cgroup.relative(path))

    def directories(self, path: str) -> list[str]:
        roots = [*self._roots, self._unified] if self._unified else self._roots
        below = cgroup.relative(path)
        return [f"{root}/{below}" for root in roots]

    def make(self, path: str, *, controllers: Iterable[str] | None = None) -> None:
        below = cgroup.relative(path)
        cpuset = self._hierarchies.get("cpuset")
        roots = self._roots if controllers is None else [self._hierarchies[name] for name in controllers]
        for root in dict.fromkeys([*roots, *self._tracking]):
            if root == cpuset:
                _make_cpuset(root, below)
            else:
                _make_directory(root, below)

    def add(self, path: str, pid: int, *, controllers: Iterable[str] | None = None) -> None:
        chosen = self._hierarchies if controllers is None else controllers
        joined = [self.directory(path, name) for name in chosen]
        joined += [os.path.join(root, cgroup.relative(path)) for root in self._tracking]
        for directory in dict.fromkeys(joined):
            cgroup.write(os.path.join(directory, "cgroup.procs"), str(pid))

    def own(self) -> str:
        return self.directory(cgroup.own_path("pids"), "pids")

    def stats(self, path: str) -> cgroup.CgroupStats | None:
        detail = self._read(path, "memory", "memory.stat")
        cpu = self._read(path, "cpuacct", "cpuacct.usage")
        if not detail and not cpu:
            return None
        return build_stats(
            cpu=cgroup.number(cpu),
            usage=cgroup.number(self._read(path, "memory", "memory.usage_in_bytes")),
            detail=detail,
            pids=cgroup.number(self._read(path, "pids", "pids.current")),
        )

    def _read(self, path: str, controller: str, file: str) -> bytes:
        """b"" if the file, the cgroup or the controller is absent."""
        root = self._hierarchies.get(controller)
        return self.held.read(f"{root}{path}/{file}") if root else b""

    def oom_kills(self, path: str) -> int | None:
        """v1 counts a kill only where the process was, so those below are added."""
        counts = [
            cgroup.field(cgroup.read(f"{below}/memory.oom_control"), b"oom_kill")
            for below in cgroup.walk(self.directory(path, "memory"))
        ]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    def update(self, path: str, resources: pod.LinuxContainerResources) -> None:
        if resources.unified:
            raise errors.Invalid(f"unified resources {sorted(resources.unified)} need cgroup v2; this node has v1")
        self._update_cpu(path, resources)
        if resources.memory_limit_in_bytes or resources.memory_swap_limit_in_bytes:
            _update_memory(self.directory(path, "memory"), resources)
        for file, value in (("cpuset.cpus", resources.cpuset_cpus), ("cpuset.mems", resources.cpuset_mems)):
            if value:
                cgroup.set_value(self.directory(path, "cpuset"), file, value)
        self._update_hugetlb(path, resources.hugepage_limits)

    def _update_cpu(self, path: str, resources: pod.LinuxContainerResources) -> None:
        if resources.cpu_shares:
            cgroup.set_value(self.directory(path, "cpu"), "cpu.shares", resources.cpu_shares)
        settings: list[tuple[str, int]] = []
        if resources.cpu_period:
            settings.append(("cpu.cfs_period_us", resources.cpu_period))
        if resources.cpu_quota:
            settings.append(("cpu.cfs_quota_us", resources.cpu_quota))
        if not settings:
            return
        directory = self.directory(path, "cpu")
        try:
            cgroup.set_value(directory, *settings[0])
        except errors.RopewalkError:
            if len(settings) < 2:
                raise
            settings.append(settings.pop(0))  # the new period with the old quota exceeded the parent: the other way
            cgroup.set_value(directory, *settings[0])
        for setting in settings[1:]:
            cgroup.set_value(directory, *setting)

    def _update_hugetlb(self, path: str, limits: Iterable[pod.HugepageLimit]) -> None:
        for wanted in limits:
            if "hugetlb" not in self._hierarchies and wanted.limit == 0:
                continue  # kubelet sends 0 for every size
            directory = self.directory(path, "hugetlb")
            reserved = f"hugetlb.{wanted.page_size}.rsvd.limit_in_bytes"
            cgroup.set_value(directory, f"hugetlb.{wanted.page_size}.limit_in_bytes", wanted.limit)
            if os.path.exists(os.path.join(directory, reserved)):  # Linux 5.7: without it mmap succeeds, then SIGBUS
                cgroup.set_value(directory, reserved, wanted.limit)

    def _end(self, path: str, round: int, held: Mapping[int, int]) -> None:
        """With a fork bomb, between listing and killing there is always a new one: freeze, kill, thaw, without an
        await in between. A paused container is thawed too: a frozen process dies only then."""
        freezers = self._freezers(path)
        if freezers and cgroup.is_storm(round, held):
            _freeze(freezers[0])
            self._signal_frozen(path)
        else:
            self._signal(path, held)
        for directory in reversed(freezers):
            with contextlib.suppress(OSError):
                cgroup.write(os.path.join(directory, "freezer.state"), "THAWED")

    def _freezers(self, path: str) -> list[str]:
        """The freezer cgroups of `path` and below, parents first."""
        if "freezer" not in self._hierarchies:
            return []
        return list(cgroup.walk(self.directory(path, "freezer")))


def build_stats(*, cpu: int | None, usage: int | None, detail: bytes, pids: int | None) -> cgroup.CgroupStats:
    """`detail` is memory.stat, whose total_ and hierarchical_ lines include what is below, and what limits it from
    above. Limits there are inherited: a container without one is limited by its pod."""
    inactive = cgroup.field(detail, b"total_inactive_file") or 0
    limit = _limit(detail, b"hierarchical_memory_limit")
    total = _limit(detail, b"hierarchical_memsw_limit")
    return cgroup.CgroupStats(
        cpu_usage_ns=cpu,
        memory_usage=usage,
        memory_working_set=None if usage is None else max(usage - inactive, 0),
        memory_rss=cgroup.field(detail, b"total_rss"),
        page_faults=cgroup.field(detail, b"total_pgfault"),
        major_page_faults=cgroup.field(detail, b"total_pgmajfault"),
        memory_limit=limit,
        swap_usage=cgroup.field(detail, b"total_swap"),
        swap_limit=None if total is None or limit is None else max(total - limit, 0),
        pids=pids,
    )


def _limit(detail: bytes, name: bytes) -> int | None:
    value = cgroup.field(detail, name)
    return value if value is not None and value < cgroup.UNLIMITED else None


def _make_directory(root: str, below: str) -> None:
    """mkdir, with ancestors only where it turns out that they are missing."""
    path = os.path.join(root, below)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)


def _make_cpuset(root: str, below: str) -> None:
    """A new cpuset has no CPUs and takes no process until its files are filled. With cgroup.clone_children set on
    the first one made here, the kernel fills those below it."""
    path = root
    for part in below.split("/"):
        parent, path = path, os.path.join(path, part)
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            if path != os.path.join(root, below) and cgroup.read(f"{path}/cpuset.cpus").strip():
                continue
        if cgroup.read(f"{path}/cpuset.cpus").strip() and cgroup.read(f"{path}/cpuset.mems").strip():
            continue
        for file in ("cpuset.cpus", "cpuset.mems"):
            if not cgroup.read(f"{path}/{file}").strip():
                cgroup.write(f"{path}/{file}", cgroup.read(f"{parent}/{file}").decode().strip())
        cgroup.write(f"{path}/cgroup.clone_children", "1")


def _update_memory(directory: str, resources: pod.LinuxContainerResources) -> None:
    """memory.limit may never exceed memory+swap's limit, so the order depends on which way they move. Without a swap
    limit there is no swap: both are equal, as at creation."""
    limit = resources.memory_limit_in_bytes
    total = resources.memory_swap_limit_in_bytes or limit
    settings = [("memory.limit_in_bytes", limit)] if limit else []
    swap_file = "memory.memsw.limit_in_bytes"  # absent with swapaccount=0
    current = cgroup.number(cgroup.read(os.path.join(directory, swap_file)))
    if current is not None:
        grows = total < 0 or total > current
        settings.insert(0 if grows else len(settings), (swap_file, total))
    elif resources.memory_swap_limit_in_bytes not in (0, limit):
        raise errors.Unsupported("a swap limit cannot be set: this kernel does not account swap")
    for file, value in settings:
        cgroup.set_value(directory, file, value)


def _freeze(directory: str) -> None:
    """Ask, and wait a little: FREEZING until the last process has stopped; one in the kernel may not."""
    state = os.path.join(directory, "freezer.state")
    try:
        cgroup.write(state, "FROZEN")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return
        raise
    deadline = time.monotonic() + FREEZE_SECONDS
    while cgroup.read(state).strip() == b"FREEZING" and time.monotonic() < deadline:
        time.sleep(0.0005)
