"""The Handler contract: a runtime that RuntimeClass can name.

Words. A *handler* is a name that a pod can ask for, and the object that serves it. Its *type* is a module with a
`Config` (its section of the configuration) and a `Handler`: a file of `handlers/`, whose name is the type's, or a
module that another package registers (registry.py). A *plan* is everything decided about a pod or a container, a *task*
its processes. A handler owns no records: it is told ids, and what it needs to find its work again is derived from the
id (files in its bundle directory) or comes back in the Task, which the caller persists. It never calls upward.

What a handler can do stands in its `capabilities`; refusals.py turns down what they rule out, naming the field, before
any work. Whether it works on this node is what `probe` found out by running something (health.py).

A pod may need something of the handler's own: a process that holds its PID namespace, a user-space kernel, a virtual
machine. `create_pod` makes it, and its task is what must stay alive for the pod; None says that nothing is needed. A
container then belongs to that pod: `ContainerPlan.pod` is the pod's task.

Lifecycle::

    create_pod(plan) -> Task | None       before the first container; the pod's namespaces, network and files are there
    create(plan) -> Task                  mounts the root file system, starts monitor and runtime; the process waits
    start(id, task)                       the process runs
    wait(id, task, cgroup) -> Exit        returns once; may be called again by the next daemon (adoption)
    delete(id, cgroup)                    undo of create, at any point of it, from the id alone; idempotent
    delete_pod(id, cgroup)                undo of create_pod, likewise, after the containers are gone

A killed daemon's successor asks `observe(id, task)`: alive, exited with a code, or lost. At the end of recovery `sweep`
ends what carries this instance's names and no record owns.

Worked example, one container of one pod::

    pod = await handler.create_pod(pod_plan)
    plan = ContainerPlan(id=id, pod_id=pod_plan.id, spec=spec, rootfs=mounts, cgroup=cgroup, pod=pod)
    task = await handler.create(plan)
    await handler.start(id, task)
    print((await handler.exec(id, task, {**spec["process"], "args": ["uname"]}, timeout=10, limit=1 << 20)).stdout)
    await handler.signal(id, task, signal.SIGTERM)
    exit = await handler.wait(id, task, cgroup)
    await handler.delete(id, cgroup)
    await handler.delete_pod(pod_plan.id, pod_plan.cgroup)

docs/runtimes/own-handler.md shows a whole one.
"""

from __future__ import annotations

import enum
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct, field

from ropewalk.errors import Unsupported
from ropewalk.linux import cgroup, dialing
from ropewalk.runtimes.streams import Streams
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
    """What a handler can do; refusals, the CRI's Status and documentation follow from it. The defaults are those of
    namespaces around a process of the node's kernel, before a probe has found out more."""

    boundary: Boundary = Boundary.NAMESPACES
    host_network: bool = True
    host_pid: bool = True
    host_ipc: bool = True
    target_pid: bool = True  # a container may join the PID namespace of another one
    privileged: bool = True
    devices: bool = True  # device nodes of the node
    sysctls: bool = True
    seccomp: bool = True  # profiles of the node; without them, the boundary itself is the default profile
    apparmor: bool = True
    mount_propagation: bool = True  # mounts of the node appear in the container, or the reverse
    user_namespaces: bool = False
    recursive_read_only: bool = False
    container_limits: bool = True  # limits of a single container are enforced, not only the pod's
    update: bool = True  # limits may change while the container runs
    port_forward: bool = True
    checkpoint: bool = False

    @property
    def own_kernel(self) -> bool:
        """Whether what runs inside makes its system calls to another kernel than the node's."""
        return self.boundary is not Boundary.NAMESPACES


class Level(enum.Enum):
    """How far a handler got on this node."""

    ABSENT = "absent"  # a program is not installed
    PRESENT = "present"  # it is, but nothing ran
    WORKS = "works"  # something really ran


class Probe(Struct, frozen=True):
    """Whether the handler works on this node."""

    level: Level
    version: str = ""
    evidence: str = ""  # what was run and seen
    advice: str = ""  # if it does not work: what to do
    facts: dict[str, str] = {}  # what else was found and the handler goes by, kept with the probe

    @property
    def works(self) -> bool:
        return self.level is Level.WORKS


class PodPlan(Struct, frozen=True):
    """Everything decided about a pod when its handler is asked for what it needs of its own."""

    id: str
    pod: PodSpec
    spec: dict[str, Any]  # OCI runtime spec of a container of the pod's own: an init that waits for ever
    cgroup: str  # of that container
    parent: str  # the pod's cgroup, parent of its containers'
    monitor_cgroup: str = ""  # leaf beside the containers
    namespaces: dict[str, str] = field(default_factory=dict)  # OCI type -> pin

    @property
    def netns(self) -> str:
        """Pin of the pod's network namespace, "" for the node's."""
        return self.namespaces.get("network", "")

    @property
    def userns(self) -> str:
        return self.namespaces.get("user", "")


class Task(Struct, frozen=True):
    """The processes of a container, or of what a pod needs, persisted in its row. Start times (clock ticks since boot,
    field 22 of /proc/PID/stat) tell a process from a later one with its pid."""

    pid: int
    pid_start: int
    monitor_pid: int = 0
    monitor_start: int = 0


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
    userns: str = ""  # pin of the pod's user namespace: the root file system is mapped by it, and mounts with mappings
    pod: Task | None = None  # what create_pod made
    checkpoint: str = ""  # what `checkpoint` wrote: the container goes on from there when it is started


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


class Config(Struct, frozen=True):
    """What every section [runtimes.NAME] has; a type's own Config adds its keys."""

    type: Annotated[
        str, Meta(description="Type of the handler: what serves this section; empty: the one called like the section.")
    ] = ""
    pod_annotations: Annotated[
        list[str],
        Meta(
            description="Annotations of pods and containers that the runtime gets to see; one that ends in * is a "
            "prefix. They may change the isolation. Those that replace a filter or run a program never pass."
        ),
    ] = []
    annotations: Annotated[
        dict[str, str],
        Meta(
            description="Annotations that the runtime gets with every container of this handler, whatever the pod says."
        ),
    ] = {}


class Handler(ABC):
    """See the module's essay. Every method may raise RopewalkError; none blocks the event loop."""

    name: str
    capabilities: Capabilities  # of the class: before a probe has found out more
    config: Config = Config()
    programs: Sequence[str] = ()  # paths, or names in PATH: files on which it depends whether the handler works
    probe_seconds: float = 20.0  # for its probe; what takes longer hangs, and does not work

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        """`name`: of the section, if it is not the type's."""
        self.node = node
        self.config = config
        if name:
            self.name = name

    async def prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Once before anything is run, whether or not there is a probe."""

    @abstractmethod
    async def probe(self) -> Probe:
        """Really run something, within `probe_seconds`. `capabilities` are those of this node afterwards. What is found
        holds as long as `programs`, configuration and kernel stay the same."""

    def recall(self, probe: Probe, capabilities: Capabilities) -> None:
        """An earlier probe still holds, and this is what it found."""
        self.capabilities = capabilities

    async def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of connections and tasks of this process; what runs goes on. The last call."""

    def refuse(self, pod: PodSpec, container: ContainerSpec | None = None) -> None:  # noqa: B027 (most have no more)
        """Raise Invalid or Unsupported naming a field that this handler cannot honour and of which its capabilities
        say nothing. Pure, before any work."""

    # Pods.

    def needs_pod(self, pod: PodSpec) -> bool:
        """Whether create_pod would make anything for it; if not, it is not called, and no plan is made for it."""
        return True

    async def create_pod(self, plan: PodPlan) -> Task | None:
        """What the handler itself needs for this pod; None: nothing. Its pid is what must stay alive for the pod."""
        return None

    async def delete_pod(self, id: str, cgroup: str) -> None:
        """Undo of create_pod from the id alone, at any point of it; idempotent."""
        await self.delete(id, cgroup)

    async def dial(self, pod_id: str, pod: Task | None, netns: str, port: int) -> socket.socket:
        """A connected, non-blocking stream socket to TCP `port` on the pod's own loopback, for port-forward. `netns`:
        pin of its network namespace, "" for the node's."""
        return await dialing.connect(netns, port)

    # Containers.

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
    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        """What it raises is no end: it is asked again for as long as the process is there. Once that is gone, a
        RopewalkError says that nobody can tell how."""

    @abstractmethod
    async def observe(self, id: str, task: Task) -> Observation: ...

    @abstractmethod
    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        """Run `process` (OCI process object) inside; stdout + stderr together at most `limit` bytes, the rest is
        dropped. `timeout` seconds (0: none): on expiry everything it started is killed, Kind.TIMEOUT."""

    async def exec_stream(self, id: str, task: Task, process: dict[str, Any], *, tty: bool) -> Streams:
        """Run `process` inside with its streams in the caller's hands."""
        raise Unsupported(f"runtime handler {self.name!r} has no interactive exec")

    async def attach(self, id: str, task: Task) -> Streams:
        """The streams of the container's init from now on. An attacher that does not read never holds it up."""
        raise Unsupported(f"runtime handler {self.name!r} has no attach")

    async def stats(self, id: str, task: Task) -> cgroup.CgroupStats | None:
        """What a running container uses, where its cgroup does not tell; None: read the cgroup."""
        return None

    @abstractmethod
    def spec(self, id: str) -> dict[str, Any]:
        """The runtime spec that the container was created from. NotFound if it is gone."""

    @abstractmethod
    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None: ...

    @abstractmethod
    async def reopen_log(self, id: str, task: Task) -> None: ...

    # Only where capabilities.checkpoint, and for a container that is alone in its pod.

    async def checkpoint(self, id: str, task: Task, directory: str) -> None:
        """Write the state of a running container to files in `directory`, which is empty; it runs on, whatever becomes
        of the call. Its root file system as an image made it is not in there, what it changed of that is."""
        raise Unsupported(f"runtime handler {self.name!r} has no checkpoint")

    async def restore_pod(self, id: str, directory: str) -> Task | None:
        """Make what the handler needs for a pod anew, from what `checkpoint` wrote, for one container that is created
        next with `ContainerPlan.checkpoint`. No other container of the pod lives. The pod's task from now on; if this
        fails, or is cancelled, the pod has none."""
        raise Unsupported(f"runtime handler {self.name!r} restores no checkpoint")

    @abstractmethod
    async def delete(self, id: str, cgroup: str) -> None: ...

    @abstractmethod
    async def sweep(self, owned: set[str]) -> list[str]:
        """After recovery: end and remove what carries this instance's names but no row owns. Returns what it found.
        `owned`: ids of containers and pods at this moment; creates may be under way."""
