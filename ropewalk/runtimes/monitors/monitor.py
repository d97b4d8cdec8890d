"""The Monitor contract: a process per container that outlives the daemon.

A monitor runs the OCI runtime's `create` as its child, holds the container's pipes or terminal, writes its log in
CRI format, collects its exit status, and leaves that in a file. The daemon only watches: a killed daemon loses
nothing, and the next one calls `wait` with the same Task.

Every monitor has conmon's files in the bundle: `attach`, a SEQPACKET socket (attach.py), and `ctl`, a fifo that takes
commands; and `<exits>/<id>`, decimal, at the end.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod

from msgspec import Struct, field

from ropewalk.linux import cgroup, paths
from ropewalk.runtimes.handler import Exit, Task
from ropewalk.runtimes.monitors import logfile

ACCOUNTED = {"cpu", "cpuacct", "memory", "pids"}  # v1: where a monitor's use is counted; each move costs 0.1 ms
CREATE_SECONDS = 60.0
OOM, SPARED = "oom", "spared"  # empty files


class Launch(Struct, frozen=True):
    """What a monitor needs to create one container. `start_argv`, `wait_argv`: for runtimes that take the streams at
    `start` and let nobody but themselves wait (gVisor); whole commands, run by the monitor."""

    id: str
    bundle: str  # directory: config.json is there, and the monitor's own files
    runtime: list[str]  # the OCI runtime: absolute path, then its global flags
    cgroup: str  # a leaf for monitors, relative to each hierarchy's root; "" leaves the monitor where the daemon is
    log_path: str = ""  # an existing file; "" discards output
    memory_events: str = ""  # cgroup v2: that file of the container's cgroup
    tty: bool = False
    console: str = "console"  # a terminal's socket, as the runtime is told: in the bundle, where it is started
    stdin: bool = False
    stdin_once: bool = False
    start_argv: list[str] = field(default_factory=list)
    wait_argv: list[str] = field(default_factory=list)


class RuntimeFailed(Exception):
    """The OCI runtime refused; the text is what it wrote to standard error."""


class Monitor(ABC):
    """See the module's essay. `path`: its program, or a name in PATH. `exits`: the directory of exit files."""

    def __init__(self, path: str, *, exits: str, cgroups: cgroup.Cgroups) -> None:
        self.path = path
        self.exits = exits
        self.cgroups = cgroups
        self.controllers = sorted(cgroups.controllers() & ACCOUNTED)

    def check(self, version: str) -> None:  # noqa: B027 (conmon's options have not changed since 2.1)
        """`version`: the first line of what it says with --version. Unsupported if it cannot be talked to."""

    @abstractmethod
    async def create(self, launch: Launch) -> Task:
        """Create the container under a new monitor. Raises RuntimeFailed, RopewalkError. The bundle's path is an
        argument of the monitor and of the runtime: whoever undoes a broken spawn finds them by it."""

    @abstractmethod
    async def start(self, bundle: str, task: Task) -> None:
        """Run `start_argv` and return when it has gone well, whoever began it. Raises RuntimeFailed, WrongState."""

    def exit(self, id: str) -> Exit | None:
        """What the monitor recorded at the container's end; None as long as there is no record. One that says nothing
        is none: what a full disk has left of it."""
        try:
            with open(os.path.join(self.exits, id), encoding="ascii") as file:
                return Exit(code=int(file.read()), at=os.fstat(file.fileno()).st_mtime_ns)
        except (FileNotFoundError, ValueError):
            return None

    def record(self, id: str, code: int) -> None:
        """In place of a monitor that was ended before it had anything to record."""
        paths.write_atomic(os.path.join(self.exits, id), str(code).encode(), 0o600)

    def exited(self) -> list[str]:
        """Ids that have a record of their end, or one in the making."""
        return sorted({name.lstrip(".") for name in os.listdir(self.exits)})

    def forget(self, id: str) -> None:
        """Remove that record; idempotent."""
        for name in (id, f".{id}"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.exits, name))

    def met_oom(self, bundle: str) -> bool | None:
        """Whether the OOM killer was at work in the container; None if the monitor does not know: only cgroup v2 tells
        it, and conmon leaves no word when it was not."""
        if os.path.exists(os.path.join(bundle, OOM)):
            return True
        return False if os.path.exists(os.path.join(bundle, SPARED)) else None

    def note_oom(self, bundle: str) -> None:
        """In place of a monitor that was too late to see it; idempotent."""
        with open(os.path.join(bundle, OOM), "ab"):
            pass

    async def reopen_log(self, bundle: str, task: Task, log_path: str) -> None:
        """From now on write to a new file at `log_path`, which exists when this returns."""
        control = os.path.join(bundle, "ctl")
        await logfile.reopen(log_path, writer=task.monitor_pid, started=task.monitor_start, control=control)

    def place(self, path: str, pid: int) -> None:
        """Into the monitors' leaf, which the pod's first container makes."""
        if not path:
            return
        try:
            self.cgroups.add(path, pid, controllers=self.controllers)
        except FileNotFoundError:
            self.cgroups.make(path, controllers=self.controllers)
            self.cgroups.add(path, pid, controllers=self.controllers)
