"""A node in memory: what a handler, the network and a snapshotter would leave in a kernel.

A daemon that is thrown away and made anew on the same World and database is a daemon that was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ropewalk.errors import Kind, NotFound, RopewalkError
from ropewalk.network.attachment import Attachment
from ropewalk.runtimes.handler import (
    Capabilities,
    ContainerPlan,
    ExecResult,
    Exit,
    Handler,
    Level,
    Observation,
    PodPlan,
    Probe,
    Task,
)
from ropewalk.spec.pod import LinuxContainerResources, NamespaceMode, PodSpec
from ropewalk.storage.snapshotter import Info, Mount, SnapshotKind, Snapshotter, Usage

Hook = Callable[[str], Awaitable[None]]


async def _no_hook(where: str) -> None:
    """Called before every act; a test makes one fail, hang, or tell."""


class World:
    """Processes by container id, their exits, attachments and snapshots that exist."""

    def __init__(self) -> None:
        self.processes: dict[str, Task] = {}
        self.exits: dict[str, Exit] = {}
        self.attached: dict[str, Attachment] = {}
        self.snapshots: dict[str, str] = {}
        self.signals: list[tuple[str, int]] = []
        self.obeys: set[int] = {9, 15}
        self.hook: Hook = _no_hook
        self.ended: dict[str, asyncio.Event] = {}
        self.plans: dict[str, ContainerPlan] = {}
        self.restored: list[tuple[str, str, bytes]] = []  # pod, container, what it was restored from
        self._pids = 1000

    def spawn(self, id: str) -> Task:
        self._pids += 1
        task = Task(pid=self._pids, pid_start=self._pids * 10)
        self.processes[id] = task
        self.ended[id] = asyncio.Event()
        return task

    def end(self, id: str, code: int) -> None:
        if self.processes.pop(id, None) is not None:
            self.exits[id] = Exit(code=code, at=5)
            self.ended[id].set()

    @property
    def is_empty(self) -> bool:
        return not (self.processes or self.exits or self.attached or self.snapshots)


class FakeHandler(Handler):
    name = "crun"
    capabilities = Capabilities()

    def __init__(self, world: World) -> None:
        self.world = world

    async def probe(self) -> Probe:
        return Probe(Level.WORKS)

    async def create(self, plan: ContainerPlan) -> Task:
        await self.world.hook("create")
        self.world.plans[plan.id] = plan
        if plan.checkpoint:
            with open(f"{plan.checkpoint}/checkpoint.img", "rb") as file:
                self.world.restored.append((plan.pod_id, plan.id, file.read()))
        return self.world.spawn(plan.id)

    async def start(self, id: str, task: Task) -> None:
        await self.world.hook("start")

    async def signal(self, id: str, task: Task, signum: int) -> None:
        self.world.signals.append((id, signum))
        if signum in self.world.obeys:
            self.world.end(id, 0 if signum == 15 else 137)

    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        self.world.end(id, 137)

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        await self.world.ended[id].wait()
        return self.world.exits[id]

    async def observe(self, id: str, task: Task) -> Observation:
        return Observation(alive=self.world.processes.get(id) == task, exit=self.world.exits.get(id))

    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        return ExecResult(code=0, stdout=" ".join(process["args"]).encode(), stderr=b"")

    def spec(self, id: str) -> dict[str, Any]:
        return {"process": {"args": ["sleep"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": []}}

    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None:
        await self.world.hook("update")

    async def reopen_log(self, id: str, task: Task) -> None:
        await self.world.hook("reopen")

    async def checkpoint(self, id: str, task: Task, directory: str) -> None:
        with open(f"{directory}/checkpoint.img", "wb") as file:
            file.write(b"memory")
        await self.world.hook("checkpoint")

    async def restore_pod(self, id: str, directory: str) -> Task | None:
        await self.world.hook("restore_pod")
        return None

    async def delete(self, id: str, cgroup: str) -> None:
        await self.world.hook("delete")
        self.world.processes.pop(id, None)
        self.world.exits.pop(id, None)

    async def create_pod(self, plan: PodPlan) -> Task | None:
        if plan.pod.namespaces.pid is not NamespaceMode.POD:
            return None
        await self.world.hook("pod")
        return self.world.spawn(plan.id)

    async def sweep(self, owned: set[str]) -> list[str]:
        return [id for id in self.world.processes if id not in owned]


class FakeNetwork:
    """Addresses are counted up; attach and detach can be hooked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.planned: set[str] = set()

    def plan(self, pod_id: str, spec: PodSpec) -> Attachment:
        self.planned.add(pod_id)
        if spec.host_network:
            return Attachment(mode="host")
        return Attachment(
            mode="bridge", netns=f"/run/netns/{pod_id[:12]}", addresses=[f"10.0.0.{len(self.planned)}/24"]
        )

    async def attach(self, pod_id: str, attachment: Attachment, spec: PodSpec) -> Attachment:
        await self.world.hook("attach")
        self.world.attached[pod_id] = attachment
        return attachment

    async def detach(self, pod_id: str, attachment: Attachment) -> None:
        await self.world.hook("detach")
        self.world.attached.pop(pod_id, None)
        self.planned.discard(pod_id)

    async def check(self, pod_id: str, attachment: Attachment) -> str:
        return ""

    def adopt(self, owned: dict[str, Attachment]) -> None:
        self.planned |= set(owned)

    async def sweep(self) -> list[str]:
        return []


class FakeSnapshotter(Snapshotter):
    name = "fake"

    def __init__(self, world: World) -> None:
        self.world = world

    async def prepare(self, key: str, parent: str = "") -> list[Mount]:
        await self.world.hook("prepare")
        self.world.snapshots[key] = parent
        return await self.mounts(key)

    async def view(self, key: str, parent: str) -> list[Mount]:
        return await self.prepare(key, parent)

    async def mounts(self, key: str) -> list[Mount]:
        if key not in self.world.snapshots:
            raise NotFound(f"no snapshot {key!r}")
        return [Mount(type="bind", source=f"/snapshots/{key}")]

    def directory(self, key: str) -> str:
        return f"/snapshots/{key}"

    async def commit(self, name: str, key: str, *, usage: Usage | None = None, synced: bool = False) -> None:
        raise RopewalkError("layers are not made here", kind=Kind.UNSUPPORTED)

    async def remove(self, key: str) -> None:
        await self.world.hook("remove snapshot")
        self.world.snapshots.pop(key, None)

    async def stat(self, key: str) -> Info:
        return Info(kind=SnapshotKind.ACTIVE, name=key, parent=self.world.snapshots[key])

    async def usage(self, key: str) -> Usage:
        return Usage()

    def list(self) -> list[Info]:
        return [Info(kind=SnapshotKind.ACTIVE, name=key) for key in self.world.snapshots]
