"""What a product costs: it runs in a cgroup of its own, and so does everything that it starts.

    /ropewalk-bench-<tag>/daemon    the daemon, its workers, shims, the programs that these run
    /ropewalk-bench-<tag>/pods/<uid>    a pod's cgroup parent, as kubelet makes it; the product puts the pod below

The processor time of the whole tree is read at its top, where it stays when a process or a group below is gone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from ropewalk.linux import cgroup

JOIN = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1"; shift; n=$((n-1)); done; exec "$@"'


class Group:
    """The cgroup of one product; `daemon` and `pods` are paths in the hierarchies."""

    def __init__(self, tag: str) -> None:
        self.path = f"/ropewalk-bench-{tag}"
        self.daemon, self.pods = f"{self.path}/daemon", f"{self.path}/pods"
        self._cgroups = cgroup.detect()
        self.make(self.daemon)
        self.make(self.pods)

    def make(self, path: str) -> None:
        self._cgroups.make(path)

    def joined(self, command: list[str]) -> list[str]:
        """`command` as it starts inside `daemon`: it joins first, then it is executed."""
        files = [f"{directory}/cgroup.procs" for directory in self._cgroups.directories(self.daemon)]
        files = [file for file in files if os.path.exists(file)]
        return ["/bin/sh", "-c", JOIN, "sh", str(len(files)), *files, *command]

    def cpu_ms(self) -> float:
        """Processor time used in the tree since it was made."""
        stats = self._cgroups.stats(self.path)
        assert stats is not None and stats.cpu_usage_ns is not None, f"no cpuacct in {self.path}"  # noqa: PT018
        return stats.cpu_usage_ns / 1e6

    def processes(self, *, without: Iterable[str] = ()) -> set[int]:
        """Process ids in the tree but those in the cgroups of the containers `without` (ids)."""
        payloads = tuple(without)
        members = self._cgroups.processes(self.path)
        return {pid for pid in members if not any(id in _groups(pid) for id in payloads)}

    def wait_empty(self, path: str, seconds: float = 10.0) -> None:
        """Until no process is left below `path`: a removed pod ends a moment after its removal was answered."""
        deadline = time.monotonic() + seconds
        while self._cgroups.processes(path):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes are left in {path}: {self._cgroups.processes(path)}")
            time.sleep(0.002)

    def handles(self, path: str, signal: int) -> bool:
        """Whether the process in the cgroup has blocked the signal (and takes it from a descriptor) or catches it."""
        masks = (_signals(pid) for pid in self._cgroups.processes(path))
        return any(mask >> (signal - 1) & 1 for mask in masks)

    def remove(self, path: str = "") -> None:
        """Remove the groups at and below `path` (default: all), as far as they are empty."""
        for top in self._cgroups.directories(path or self.path):
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def kill(self) -> None:
        """SIGKILL to each process of the tree, by its id: the end of a product that did not go in peace."""
        for _ in range(20):
            if not (left := self._cgroups.processes(self.path)):
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.05)


def _groups(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def _signals(pid: int) -> int:
    """Blocked or caught, as a bit mask (proc_pid_status(5)). 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    blocked, caught = (int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigCgt")))
    return blocked | caught


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size in MB (10⁶ bytes) of all of them: shared pages are counted in parts (proc_pid_smaps(5))."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it has ended, or is about to
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024 / 1e6


def busy_seconds() -> float:
    """Processor time that the machine spent on anything but idling, since its boot (proc_stat(5))."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def program_version(*command: str) -> str:
    """The first line that a program says about itself; "absent" where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "absent"
    return next(iter((done.stdout or done.stderr).strip().splitlines()), "silent")


def own_cpu_ms(pid: int) -> float:
    """Processor time of a process until now, ended threads included: its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6  # CPUCLOCK_SCHED, include/linux/posix-timers_types.h
