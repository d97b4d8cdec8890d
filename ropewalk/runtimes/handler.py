"""The Handler contract: a runtime that RuntimeClass can name.

A handler is one file, `handlers/<name>.py`; its name is the file's. It declares what it can do, refuses what
it cannot before any work, and turns a *plan* (everything decided) into a *task* (processes). It owns no
records: it is told ids, and what it needs to find its work again is either derived from the id or comes back
as a small value that the caller persists.

Lifecycle of a container::

    create(plan) -> Task          mounts the root file system, starts monitor and runtime; the process waits
    start(task)                   the process runs
    wait(task) -> Exit            returns once; may be called again by the next daemon (adoption)
    delete(id)                    undo of create, at any point of it, from the id alone; idempotent

A killed daemon adopts with `observe(task)`: alive, exited with a code, or lost.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct, field

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import LinuxContainerResources, PodSpec
from ropewalk.storage.snapshotter import Mount

PROBE = "probe-"  # what a handler's trials are called, in its directories and below the instance's cgroup


class Boundary(enum.Enum):
    """What stands between the workload and the node's kernel."""

    NAMESPACES = "namespaces"
    USER_KERNEL = "user-space kernel"
    VIRTUAL_MACHINE = "virtual machine"
    UNIKERNEL = "unikernel"


class Capabilities(Struct, frozen=True):
    """What a handler can do; refusals, the CRI's Status and documentation follow from it."""

    boundary: Boundary = Boundary.NAMESPACES
    host_network: bool = True
    host_pid: bool = True
    host_ipc: bool = True
    privileged: bool = True
    devices: bool = True
    seccomp: bool = True
    user_namespaces: bool = False
    recursive_read_only: bool = False


class Probe(Struct, frozen=True):
    """Whether the handler works on this node: `works` means that something really ran."""

    works: bool
    version: str = ""
    evidence: str = ""  # what was run and seen
    advice: str = ""  # if it does not work: what to do


class ContainerPlan(Struct, frozen=True):
    """Everything decided about a container; `spec` is the OCI runtime spec (config.json)."""

    id: str
    pod_id: str
    spec: dict[str, Any]
    rootfs: list[Mount] = field(default_factory=list)
    cgroup: str = ""  # relative to each hierarchy's root, "/kubepods/…/<id>"
    monitor_cgroup: str = ""  # leaf beside the containers
    log_path: str = ""  # "" discards output
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    propagation: str = ""  # "rshared" / "rslave" when a mount of the container needs it
    userns: str = ""  # pin of the pod's user namespace: the root file system is mapped by it, and mounts with mappings


class Task(Struct, frozen=True):
    """A created container's processes, persisted in its row. Start times (clock ticks since boot, field 22 of
    /proc/PID/stat) tell a process from a later one with its pid."""

    pid: int
    pid_start: int
    monitor_pid: int = 0
    monitor_start: int = 0


class Exit(Struct, frozen=True):
    """How a container ended. `code` is 128+n for signal n. `reason` is set when nobody saw it end."""

    code: int
    at: int  # nanoseconds since the epoch
    oom: bool = False
    reason: str = ""  # "", or "Unknown" with `message`
    message: str = ""


class Observation(Struct, frozen=True):
    """What is left of a task: `alive`, or `exit` if an exit file tells, or neither (lost). `started`: the process was
    let run, whatever became of it."""

    alive: bool
    exit: Exit | None = None
    started: bool = False


class ExecResult(Struct, frozen=True):
    code: int
    stdout: bytes
    stderr: bytes


class Node(NamedTuple):
    """What every handler is given: `state`, the instance's runtime directory, the node's control groups, the
    directory whose file system has the layers of images ("": any), and the cgroup that has the instance's own."""

    state: str
    cgroups: cgroup.Cgroups
    layers: str = ""
    cgroup: str = "/ropewalk"


class Handler(ABC):
    """See the module's essay. Every method may raise RopewalkError; none blocks the event loop."""

    name: str
    capabilities: Capabilities

    @abstractmethod
    async def probe(self) -> Probe:
        """Really run something, with a deadline."""

    async def settle(self) -> None:  # noqa: B027 (one whose capabilities are fixed has nothing to wait for)
        """Return when `capabilities` are those of this node: a probe may find more."""

    def refuse(self, pod: PodSpec, container: ContainerSpec | None = None) -> None:  # noqa: B027 (most refuse nothing)
        """Raise Invalid naming the field that this handler cannot honour. Pure, before any work."""

    @abstractmethod
    async def create(self, plan: ContainerPlan) -> Task: ...

    @abstractmethod
    async def start(self, id: str, task: Task) -> None: ...

    @abstractmethod
    async def signal(self, id: str, task: Task, signum: int) -> None:
        """To the container's init; no error if it is gone."""

    @abstractmethod
    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        """SIGKILL to everything in the container, orphans in its cgroup too; no error if it is gone."""

    @abstractmethod
    async def wait(self, id: str, task: Task, cgroup: str) -> Exit: ...

    @abstractmethod
    async def observe(self, id: str, task: Task) -> Observation: ...

    @abstractmethod
    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        """Run `process` (OCI process object) inside; stdout + stderr together at most `limit` bytes, the rest is
        dropped. `timeout` seconds (0: none): on expiry everything it started is killed, Kind.TIMEOUT."""

    @abstractmethod
    def spec(self, id: str) -> dict[str, Any]:
        """The runtime spec that the container was created from. NotFound if it is gone."""

    @abstractmethod
    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None: ...

    @abstractmethod
    async def reopen_log(self, id: str, task: Task) -> None: ...

    @abstractmethod
    async def delete(self, id: str, cgroup: str) -> None: ...

    @abstractmethod
    async def create_init(self, pod_id: str, spec: dict[str, Any], cgroup: str) -> Task:
        """The pod's own init (shared PID namespace): a built-in read-only root file system, no monitor."""

    @abstractmethod
    async def sweep(self, owned: set[str]) -> list[str]:
        """After recovery: end and remove what carries this instance's names but no row owns. Returns what it found."""


class UnknownHandler(RopewalkError):
    kind = Kind.INVALID  # the name came with the request (contract 1.2)

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f"no runtime handler named {name!r}",
            hint=f"this node has {', '.join(sorted(known))}; add [runtimes.{name}] to /etc/ropewalk/config.toml",
        )


class Handlers(Mapping[str, Handler]):
    """The handlers of this node by name; `default` is what "" means."""

    def __init__(self, handlers: Mapping[str, Handler], default: str) -> None:
        self._handlers = dict(handlers)
        self.default = default

    def __getitem__(self, name: str) -> Handler:
        handler = self._handlers.get(name or self.default)
        if handler is None:
            raise UnknownHandler(name, self._handlers)
        return handler

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)
