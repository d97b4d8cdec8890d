"""cgroup v2: one hierarchy (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Mapping

from ropewalk import errors
from ropewalk.linux import cgroup, features, held
from ropewalk.spec import pod

REQUIRED = ("cpu", "cpuset", "memory", "pids")
MIN_SHARES, MAX_SHARES = 2, 262144


class CgroupsV2(cgroup.Cgroups):
    """`root` is the mount point."""

    version = 2

    def __init__(self, root: str) -> None:
        self._root = root
        self.held = held.Held()

    def problem(self) -> str:
        missing = [name for name in REQUIRED if name not in self.controllers()]
        if missing:
            return (
                f"{self._root}/cgroup.controllers lacks {', '.join(missing)}; enable them in every "
                "cgroup.subtree_control above (systemd: Delegate=yes), or drop the kernel argument cgroup_disable="
            )
        confined = os.path.exists(f"{self._root}/cgroup.type")  # only the real root lacks it
        if confined and cgroup.read_processes(self._root):
            return (
                f"{self._root} is not the machine's root cgroup and holds processes, so it cannot give controllers to "
                f"containers; move them first: mkdir {self._root}/init, then each pid to {self._root}/init/cgroup.procs"
            )
        return ""

    def controllers(self) -> frozenset[str]:
        return frozenset(cgroup.read(f"{self._root}/cgroup.controllers").decode().split())

    def directory(self, path: str) -> str:
        return os.path.join(self._root, cgroup.relative(path))

    def directories(self, path: str) -> list[str]:
        return [self.directory(path)]

    def make(self, path: str, *, controllers: Iterable[str] | None = None) -> None:
        """What a slice gives to its children is systemd's to decide."""
        here = self._root
        for part in cgroup.relative(path).split("/"):
            if not (here.endswith(".slice") or part.endswith(".slice")):
                enable_controllers(here)
            here = os.path.join(here, part)
            with contextlib.suppress(FileExistsError):
                os.mkdir(here, 0o755)

    def add(self, path: str, pid: int, *, controllers: Iterable[str] | None = None) -> None:
        cgroup.write(os.path.join(self.directory(path), "cgroup.procs"), str(pid))

    def own(self) -> str:
        return self.directory(cgroup.own_path())

    def stats(self, path: str) -> cgroup.CgroupStats | None:
        directory = self.directory(path)
        cpu = self.held.read(f"{directory}/cpu.stat")
        if not cpu:
            return None
        names = (
            "memory.current",
            "memory.stat",
            "memory.max",
            "memory.swap.current",
            "memory.swap.max",
            "pids.current",
        )
        files = {name: self.held.read(f"{directory}/{name}") for name in names}
        pressure = {kind: self._pressure(f"{directory}/{kind}.pressure") for kind in ("cpu", "memory", "io")}
        return build_stats(cpu, files, pressure)

    def _pressure(self, path: str) -> cgroup.Psi | None:
        """None without PSI: the file is absent, or reading it is refused (psi=0)."""
        try:
            return parse_pressure(self.held.read(path))
        except OSError:
            return None

    def oom_kills(self, path: str) -> int | None:
        return cgroup.field(cgroup.read(os.path.join(self.directory(path), "memory.events")), b"oom_kill")

    def update(self, path: str, resources: pod.LinuxContainerResources) -> None:
        directory = self.directory(path)
        swap = plan_swap(resources)
        self._check_unified(path, resources.unified)
        if swap == "0":
            self._check_use(directory, resources.memory_limit_in_bytes)
        for file, value in plan_update(resources):
            cgroup.set_value(directory, file, value)
        self._update_swap(directory, swap)
        for wanted in resources.hugepage_limits:
            file = f"hugetlb.{wanted.page_size}.max"
            if wanted.limit or os.path.exists(os.path.join(directory, file)):  # kubelet sends 0 for every size
                cgroup.set_value(directory, file, wanted.limit)
                reserved = f"hugetlb.{wanted.page_size}.rsvd.max"
                if os.path.exists(os.path.join(directory, reserved)):
                    cgroup.set_value(directory, reserved, wanted.limit)
        for key, text in resources.unified.items():
            cgroup.set_value(directory, key, text)

    def _check_unified(self, path: str, unified: Iterable[str]) -> None:
        for key in unified:
            file = os.path.join(self.directory(path), key)
            if "/" in key or key.startswith("cgroup.") or not os.path.exists(file):
                raise errors.Invalid(f"unified resource {key!r} is not a setting of cgroup {path}")

    def _check_use(self, directory: str, limit: int) -> None:
        """STATE for a lower limit that reclaim cannot reach without swap: v1 refuses it (EBUSY), while v2 sets it and
        then ends a process. What is taken between look and limit is not seen (as with runc's checkBeforeUpdate)."""
        used = cgroup.number(cgroup.read(f"{directory}/memory.current"))
        before = cgroup.limit(cgroup.read(f"{directory}/memory.max"))
        if used is None or (before is not None and limit >= before):
            return
        kept = unreclaimable(used, cgroup.read(f"{directory}/memory.stat"))
        if kept > limit:
            raise errors.RopewalkError(
                f"{directory}/memory.max cannot be set to {limit}: {kept} bytes are in use and cannot be reclaimed",
                hint="a process would be killed",
                kind=errors.Kind.STATE,
            )

    def _update_swap(self, directory: str, value: str) -> None:
        if value == "":
            return
        if not os.path.exists(os.path.join(directory, "memory.swap.max")) and value in ("0", "max"):
            return  # no swap accounting: nothing to limit
        cgroup.set_value(directory, "memory.swap.max", value)

    def _end(self, path: str, round: int, held: Mapping[int, int]) -> None:
        directory = self.directory(path)
        if features.have("cgroup_kill"):
            with contextlib.suppress(FileNotFoundError):
                cgroup.write(os.path.join(directory, "cgroup.kill"), "1")
                return
        if cgroup.is_storm(round, held):  # SIGKILL ends frozen processes too
            with contextlib.suppress(OSError):
                cgroup.write(os.path.join(directory, "cgroup.freeze"), "1")
            self._signal_frozen(path)
        else:
            self._signal(path, held)


def enable_controllers(directory: str) -> None:
    """Give the children of `directory` every controller it has; those that cannot be given are left out (a threaded
    or occupied cgroup, cpu with realtime processes): problem() and the file written later say what is missing."""
    available = cgroup.read(f"{directory}/cgroup.controllers").split()
    enabled = cgroup.read(f"{directory}/cgroup.subtree_control").split()
    wanted = [f"+{name.decode()}" for name in available if name not in enabled]
    if not wanted:
        return
    control = f"{directory}/cgroup.subtree_control"
    try:
        cgroup.write(control, " ".join(wanted))
    except OSError:
        for one in wanted:
            with contextlib.suppress(OSError):
                cgroup.write(control, one)


def build_stats(cpu: bytes, files: dict[str, bytes], pressure: dict[str, cgroup.Psi | None]) -> cgroup.CgroupStats:
    """`cpu` is cpu.stat, `files` the memory and pids files by name (b"" where absent)."""
    detail = files["memory.stat"]
    usage = cgroup.number(files["memory.current"])
    inactive = cgroup.field(detail, b"inactive_file") or 0
    microseconds = cgroup.field(cpu, b"usage_usec")
    return cgroup.CgroupStats(
        cpu_usage_ns=None if microseconds is None else microseconds * 1000,
        memory_usage=usage,
        memory_working_set=None if usage is None else max(usage - inactive, 0),
        memory_rss=cgroup.field(detail, b"anon"),
        page_faults=cgroup.field(detail, b"pgfault"),
        major_page_faults=cgroup.field(detail, b"pgmajfault"),
        memory_limit=cgroup.limit(files["memory.max"]),
        swap_usage=cgroup.number(files["memory.swap.current"]),
        swap_limit=cgroup.limit(files["memory.swap.max"]),
        pids=cgroup.number(files["pids.current"]),
        cpu_psi=pressure["cpu"],
        memory_psi=pressure["memory"],
        io_psi=pressure["io"],
    )


def unreclaimable(usage: int, detail: bytes) -> int:
    """Bytes of `usage` that stay without swap; `detail` is memory.stat."""
    reclaimable = (b"inactive_file", b"active_file", b"slab_reclaimable")
    return usage - sum(cgroup.field(detail, name) or 0 for name in reclaimable)


def parse_pressure(content: bytes) -> cgroup.Psi | None:
    """Lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=123", total in microseconds (accounting/psi.rst)."""
    lines: dict[str, cgroup.Pressure] = {}
    for line in content.decode().splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        lines[kind] = cgroup.Pressure(
            total_ns=int(values["total"]) * 1000,
            avg10=float(values["avg10"]),
            avg60=float(values["avg60"]),
            avg300=float(values["avg300"]),
        )
    return cgroup.Psi(some=lines.get("some"), full=lines.get("full")) if lines else None


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144): the curve through 2 and 1, 1024 and 100, 262144 and 10000
    that runc 1.3.2 and crun 1.23 took in the place of KEP-2254's straight line, on which 1024 was 39."""
    clamped = min(max(shares, MIN_SHARES), MAX_SHARES)
    if clamped == MIN_SHARES:
        return 1
    doublings = math.log2(clamped)
    return min(math.ceil(10 ** ((doublings * doublings + 125 * doublings) / 612 - 7 / 34)), 10000)


def plan_update(resources: pod.LinuxContainerResources) -> list[tuple[str, str]]:
    """Files and values for what is set; swap, huge pages and unified settings apart."""
    settings: list[tuple[str, str]] = []
    if resources.cpu_shares:
        settings.append(("cpu.weight", str(weight(resources.cpu_shares))))
    if resources.cpu_quota or resources.cpu_period:
        quota = str(resources.cpu_quota) if resources.cpu_quota > 0 else "max"
        period = f" {resources.cpu_period}" if resources.cpu_period else ""
        settings.append(("cpu.max", quota + period))
    if resources.memory_limit_in_bytes:
        settings.append(("memory.max", _bytes(resources.memory_limit_in_bytes)))
    if resources.cpuset_cpus:
        settings.append(("cpuset.cpus", resources.cpuset_cpus))
    if resources.cpuset_mems:
        settings.append(("cpuset.mems", resources.cpuset_mems))
    return settings


def plan_swap(resources: pod.LinuxContainerResources) -> str:
    """memory.swap.max, "" to leave it. The CRI's limit is of memory and swap together; without one there is no swap.
    Invalid if it is below the memory limit, or has none to go with."""
    memory, total = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    if total == 0:
        return "" if memory == 0 else "0" if memory > 0 else "max"
    if total < 0:
        return "max"
    if memory <= 0 or total < memory:
        raise errors.Invalid(f"memory and swap limit {total} needs a memory limit of at most that, not {memory}")
    return str(total - memory)


def _bytes(value: int) -> str:
    return str(value) if value >= 0 else "max"
