"""The Monitor contract: a process per container that outlives the daemon.

A monitor runs the OCI runtime's `create` as its child, holds the container's pipes or terminal, writes its log in
CRI format, collects its exit status, and leaves that in a file. The daemon only watches: a killed daemon loses
nothing, and the next one calls `wait` with the same Task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from msgspec import Struct

from ropewalk.runtimes.handler import Exit, Task


class Launch(Struct, frozen=True):
    """What a monitor needs to create one container."""

    id: str
    bundle: str  # directory: config.json is there, and the monitor's own files
    runtime: list[str]  # the OCI runtime: path, then its global flags
    cgroup: str  # a leaf for monitors, relative to each hierarchy's root; "" leaves the monitor where the daemon is
    log_path: str = ""  # an existing file; "" discards output
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False


class RuntimeFailed(Exception):
    """The OCI runtime refused; the text is what it wrote to standard error."""


class Monitor(ABC):
    """See the module's essay."""

    path: str  # of its program, or a name in PATH

    @abstractmethod
    async def create(self, launch: Launch) -> Task:
        """Create the container under a new monitor. Raises RuntimeFailed, RopewalkError. The bundle's path is an
        argument of the monitor and of the runtime: whoever undoes a broken spawn finds them by it."""

    @abstractmethod
    def exit(self, id: str) -> Exit | None:
        """What the monitor recorded at the container's end; None as long as there is no record."""

    @abstractmethod
    def exited(self) -> list[str]:
        """Ids that have a record of their end."""

    @abstractmethod
    def forget(self, id: str) -> None:
        """Remove that record; idempotent."""

    @abstractmethod
    def met_oom(self, bundle: str) -> bool:
        """Whether the OOM killer was at work in the container. Only cgroup v2 tells a monitor."""

    @abstractmethod
    async def reopen_log(self, bundle: str, task: Task, log_path: str) -> None:
        """From now on write to a new file at `log_path`, which exists when this returns."""
