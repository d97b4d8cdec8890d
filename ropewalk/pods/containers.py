"""Containers: CREATE in steps, START, STOP, REMOVE as undo, and one watch per running container.

The watch is the only place that learns of an end: it awaits the handler, records the exit, and ends what is left
in the cgroup. StopContainer signals and waits for the watch; nothing polls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence

from ropewalk import ids, steps
from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.images.store import Image, Images
from ropewalk.linux import selinux
from ropewalk.linux.offload import Offload
from ropewalk.pods import ends, identity, inputs, joined, phases, placement
from ropewalk.pods.checkpoints import Checkpoints
from ropewalk.pods.queues import Queues
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase, User
from ropewalk.runtimes import health, refusals
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.handler import ContainerPlan, ExecResult, Exit, Handler
from ropewalk.runtimes.oci import build, validate
from ropewalk.runtimes.oci import resources as limits
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.runtimes.registry import Handlers
from ropewalk.singleflight import Flights
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import LinuxContainerResources
from ropewalk.state.store import Table
from ropewalk.steps import Step
from ropewalk.storage.snapshotter import Snapshotter

log = logging.getLogger(__name__)

EXEC_LIMIT = (16 << 20) - (64 << 10)  # stdout + stderr + framing stay below the client's 16 MiB (contract 1.1)
RELABEL_SECONDS = 600.0  # for all files of a volume; a repeat goes on where it was given up
KILL_DEADLINE = 30.0  # seconds from SIGKILL to an end; longer means a process the kernel cannot end
UNASKABLE = (Kind.DENIED, Kind.TIMEOUT)  # what a handler raises that cannot pass a stop signal on


def is_visible(container: Container) -> bool:
    return container.phase is not ContainerPhase.MAKING


class Containers:
    """Owns the life cycle of containers."""

    def __init__(
        self,
        containers: Table[Container],
        pods: Table[Pod],
        queues: Queues,
        images: Images,
        snapshotter: Snapshotter,
        handlers: Handlers,
        probed: health.Health,
        offload: Offload,
        apparmor: AppArmor,
        checkpoints: Checkpoints,
        *,
        node: NodeFacts,
        state: str,
        boot_id: str,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.containers = containers
        self._pods = pods
        self._queues = queues
        self._images = images
        self._snapshotter = snapshotter
        self._handlers = handlers
        self._health = probed
        self._offload = offload
        self.checkpoints = checkpoints
        self._inputs = inputs.Inputs(handlers, offload, apparmor, node=node, state=state)
        self._boot_id = boot_id
        self._now = now
        self._flights: Flights[Container] = Flights(abandon=False)
        self._changes: Flights[None] = Flights(abandon=False)  # a client that leaves does not leave a change half-way
        self._saves: Flights[None] = Flights(abandon=True)
        self._built: dict[str, build.Built] = {}  # what CREATE acts on, while it is under way
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._asked_to_stop: set[str] = set()

    def get(self, id: str) -> Container:
        """By id or unique prefix. NotFound for one that is absent or still being made."""
        return self.containers.resolve(id, visible=is_visible)

    def list(self) -> Sequence[Container]:
        return [container for container in self.containers if is_visible(container)]

    def of(self, pod_id: str) -> Sequence[Container]:
        return [container for container in self.containers if container.pod_id == pod_id]

    def is_making(self, container: Container) -> bool:
        """Whether a create is under way for this row, rather than having left it behind."""
        return self._flights.under_way(identity.container_key(container.pod_id, container.spec))

    # Create.

    async def create(self, pod_id: str, spec: ContainerSpec) -> Container:
        """A CREATED container. A repeat with the same metadata joins or adopts."""
        pod = self._ready(self._pods.resolve(pod_id, visible=lambda pod: pod.phase is not PodPhase.MAKING))
        validate.validate_container(pod.spec, spec)
        handler = self._handlers[pod.handler]
        await self._health.known([handler.name], health.FIRST)  # for a pod of an earlier daemon
        refusals.check(handler, pod.spec, spec)
        key = identity.container_key(pod.id, spec)
        await self._flights.overtake(key, wanted=spec)
        existing = self._find(pod.id, key)
        if existing is not None and is_visible(existing):
            return identity.adopt(existing, spec, existing.spec, usable=True, noun="container")
        return await self._flights.join(key, lambda: self._create(pod.id, spec, key), wanted=spec)

    async def _create(self, pod_id: str, spec: ContainerSpec, key: str) -> Container:
        async with self._queues.making(pod_id):
            left = self._find(pod_id, key)
            if left is not None:
                await self.undo(left.id)
            pod = self._ready(self._pods[pod_id])  # it may have ended while others had their turns
            name = await self.checkpoints.origin(pod, spec) or spec.image.image
            image = self._images.find(name)
            if image is None:
                raise NotFound(f"no image {name!r} on this node", hint="pull it first")
            with joined.namespaces(pod, spec, self.get) as paths:
                return await self._make(pod, spec, image, paths)

    @staticmethod
    def _ready(pod: Pod) -> Pod:
        if pod.phase is not PodPhase.READY:
            raise WrongState(f"pod sandbox {pod.id!r} is not ready", hint="run a new one with the next attempt number")
        return pod

    async def _make(self, pod: Pod, spec: ContainerSpec, image: Image, paths: dict[str, str]) -> Container:
        """`paths`: of the namespaces that it joins."""
        id = ids.new_id()
        built = build.build(await self._inputs.gather(id, pod, spec, image, paths))
        for warning in built.warnings:
            log.warning("not as asked", extra={"container": id, "container_name": spec.metadata.name, "what": warning})
        container = self._plan(id, pod, spec, image, built)
        self.containers.add(container)
        self._built[id] = built
        try:
            await steps.advance(self, CREATE, id)
        except BaseException as error:
            if not getattr(error, "__notes__", None):
                self.containers.remove(id)
            raise
        finally:
            del self._built[id]
        user = User(built.user.uid, built.user.gid, built.user.supplemental_groups)
        made = self.containers.apply(id, phases.created, user, self._now())
        self.watch(made)
        return made

    def _plan(self, id: str, pod: Pod, spec: ContainerSpec, image: Image, built: build.Built) -> Container:
        """The row before the first side effect."""
        directory = pod.spec.log_directory
        return Container(
            id=id,
            pod_id=pod.id,
            spec=spec,
            phase=ContainerPhase.MAKING,
            handler=pod.handler,
            boot_id=self._boot_id,
            cgroup=placement.container_cgroup(pod, id),
            image_id=image.id,
            image_name=image.tags[0] if image.tags else image.id,
            image_ref=image.digests[0] if image.digests else image.id,
            snapshot=id,
            log_path=os.path.join(directory, spec.log_path) if directory and spec.log_path else "",
            stop_signal=built.stop_signal,
            resources=spec.linux.resources,
            created_at=self._now(),
        )

    def _find(self, pod_id: str, key: str) -> Container | None:
        return next((c for c in self.of(pod_id) if identity.container_key(pod_id, c.spec) == key), None)

    async def prepare_snapshot(self, id: str) -> None:
        container = self.containers[id]
        image = self._images.find(container.image_id)
        if image is None:
            raise NotFound(f"image {container.image_id!r} was removed meanwhile", hint="pull it again")
        await self._snapshotter.prepare(container.snapshot, image.chain_id)

    async def remove_snapshot(self, id: str) -> None:
        await self._snapshotter.remove(self.containers[id].snapshot)

    async def create_task(self, id: str) -> None:
        container = self.containers[id]
        spec = container.spec
        built = self._built[id]
        checkpoint = await self.checkpoints.restore_pod(container)
        pod = self._pods[container.pod_id]
        for path in built.relabel:
            label = built.spec["linux"]["mountLabel"]
            await self._offload.call(selinux.relabel, path, label, timeout=RELABEL_SECONDS)
        plan = ContainerPlan(
            id=id,
            pod_id=container.pod_id,
            spec=built.spec,
            rootfs=await self._snapshotter.mounts(container.snapshot),
            cgroup=container.cgroup,
            monitor_cgroup=placement.monitor_cgroup(pod),
            log_path=container.log_path,
            tty=spec.tty,
            stdin=spec.stdin,
            stdin_once=spec.stdin_once,
            userns=pod.namespaces.get("user", ""),
            pod=pod.task,
            checkpoint=checkpoint,
        )
        task = await self._handler(id).create(plan)
        self.containers.apply(id, phases.tasked, task)

    async def delete_task(self, id: str) -> None:
        self._unwatch(id)
        await self._handler(id).delete(id, self.containers[id].cgroup)
        await self.checkpoints.undo(self.containers[id])

    def _handler(self, id: str) -> Handler:
        return self._handlers.of(self.containers[id].handler)

    # Start.

    async def start(self, id: str) -> None:
        """Run a created container."""
        container = self.get(id)
        await self._changes.join(f"start of container {container.id}", lambda: self._start(container))

    async def _start(self, container: Container) -> None:
        async with self._queues.making(container.pod_id):
            container = self.containers[container.id]
            if container.phase is not ContainerPhase.CREATED or container.task is None:
                raise WrongState(f"container {container.id!r} is {container.phase.value}, only a created one starts")
            handler = self._handlers[container.handler]  # one that has vanished starts nothing, and fails nothing
            began = self._now()  # it may have ended before the runtime says that it started
            try:
                self._ready(self._pods[container.pod_id])
                steps.checkpoint("start:before")
                await handler.start(container.id, container.task)
                steps.checkpoint("start:after")
            except Exception as error:  # whatever it was: kubelet leaves alone what stays created
                said = error.message if isinstance(error, RopewalkError) else f"{type(error).__name__}: {error}"
                self.containers.apply(container.id, phases.start_failed, said, self._now(), derivable=True)
                await self.end_orphans(container)
                raise
            self.containers.apply(container.id, phases.started, began, derivable=True)
            await self.checkpoints.forget(container.id)

    # The watch.

    def is_watched(self, id: str) -> bool:
        """Whether this daemon awaits its end, or has seen it."""
        return id in self._watches

    def watch(self, container: Container) -> None:
        """Await its end, from CREATED on: a creator can be killed before it starts."""
        if container.id not in self._watches:
            self._watches[container.id] = asyncio.ensure_future(self._await_exit(container.id))

    async def _await_exit(self, id: str) -> None:
        container = self.containers[id]
        self._end(id, await ends.of_container(self._handler(id), container, self._now))
        await self.end_orphans(container)

    async def end_orphans(self, container: Container) -> None:
        """Kill what outlived the init of a container that has ended: where its PID namespace is another's, nobody else
        does."""
        assert container.task is not None
        try:
            await self._handler(container.id).kill(container.id, container.task, container.cgroup)
        except Exception as error:  # also what a handler of another package raises
            log.warning("processes outlive their container", extra={"container": container.id, "error": str(error)})

    def _end(self, id: str, exit: Exit) -> None:
        if id in self.containers:
            self.containers.apply(id, phases.exited, exit, derivable=True)
        self._asked_to_stop.discard(id)

    def _unwatch(self, id: str) -> None:
        watch = self._watches.pop(id, None)
        if watch is not None:
            watch.cancel()

    async def _ended(self, id: str, timeout: float) -> bool:
        """Whether the watch reported an end within `timeout` seconds."""
        watch = self._watches.get(id)
        if watch is not None and not watch.done():
            await asyncio.wait([watch], timeout=timeout)
        container = self.containers.get(id)
        return container is None or container.phase is ContainerPhase.EXITED

    # Stop and remove.

    async def stop(self, id: str, timeout: float) -> None:
        """The stop signal, `timeout` seconds, SIGKILL; EXITED at return. Absent or ended is fine. Repeated and
        concurrent calls each wait their own time, so the shortest wins; the stop signal is sent once."""
        container = self._resolve(id)
        if container is None:
            return
        await self._queues.adopted(container.pod_id)
        container = self.containers.get(container.id)
        if container is None or not _may_run(container):
            return
        self.watch(container)
        if container.phase is ContainerPhase.RUNNING and timeout > 0:
            if container.id not in self._asked_to_stop:
                timeout = await self._ask_to_stop(container, timeout)
            if await self._ended(container.id, timeout):
                return
        await self._kill(container.id)

    async def _ask_to_stop(self, container: Container, timeout: float) -> float:
        """The stop signal; how many seconds there are to wait for its effect: none if the kernel lets none through, or
        whoever would pass it on hangs."""
        assert container.task is not None
        self._asked_to_stop.add(container.id)
        try:
            await self._handler(container.id).signal(container.id, container.task, container.stop_signal)
        except BaseException as error:
            if not (isinstance(error, RopewalkError) and error.kind in UNASKABLE):
                self._asked_to_stop.discard(container.id)  # the next stop asks again
                raise
            log.warning("it cannot be asked to stop", extra={"container": container.id, "error": str(error)})
            return 0.0
        return timeout

    async def _kill(self, id: str) -> None:
        """EXITED at return; also one that is watched only from now on, because its adoption failed. What was never
        made whole is the undo's to end."""
        container = self.containers.get(id)
        if container is None or not _may_run(container):
            return
        assert container.task is not None
        self.watch(container)
        handler = self._handler(id)
        await handler.signal(id, container.task, signal.SIGKILL)
        if await self._ended(id, 1.0):
            return
        await handler.kill(id, container.task, container.cgroup)
        if not await self._ended(id, KILL_DEADLINE):
            raise RopewalkError(
                f"container {id!r} (pid {container.task.pid}) does not end, {KILL_DEADLINE:.0f} s after SIGKILL",
                hint="its processes are in the kernel (D state): see /proc/PID/stack",
                kind=Kind.TIMEOUT,
            )

    async def remove(self, id: str) -> None:
        """End it if need be and undo CREATE; absent is fine."""
        container = self._resolve(id)
        if container is None:
            return
        await self._changes.join(f"removal of container {container.id}", lambda: self._remove_in_turn(container))

    async def _remove_in_turn(self, container: Container) -> None:
        async with self._queues.turn(container.pod_id):
            await self._remove(container.id)

    async def _remove(self, id: str) -> None:
        await self._kill(id)
        await self.undo(id)

    async def undo(self, id: str) -> None:
        """Undo CREATE, then the row; absent is fine. A removal and the recovery may want that at the same time: one
        does it, the other joins."""
        await self._changes.join(f"undo of container {id}", lambda: self._forget(id))

    async def try_undo(self, id: str) -> None:
        """The same for who does not depend on it: it is tried again, here or by who does."""
        try:
            await self.undo(id)
        except RopewalkError as error:
            log.warning("cannot undo yet", extra={"container": id, "error": error.message})

    async def _forget(self, id: str) -> None:
        if id not in self.containers:
            return
        left = await steps.retreat(self, CREATE, id)
        if left:
            raise RopewalkError(f"something of container {id!r} is left: {'; '.join(left)}", hint="try again")
        self.containers.remove(id)
        self._asked_to_stop.discard(id)

    async def stop_all(self, timeout: float) -> Sequence[BaseException]:
        """Stop every container of every pod at once; what failed."""
        stops = (self.stop(container.id, timeout) for container in self.list())
        results = await asyncio.gather(*stops, return_exceptions=True)
        return [result for result in results if isinstance(result, BaseException)]

    async def kill_all(self, pod_id: str) -> None:
        """SIGKILL to every container of the pod at once; all EXITED at return, and what an undo left behind is undone.
        The caller has the pod's turn."""
        members = self.of(pod_id)
        await _all(self._kill(each.id) if is_visible(each) else self.try_undo(each.id) for each in members)

    async def remove_all(self, pod_id: str) -> None:
        await _all(self._remove(container.id) for container in self.of(pod_id))

    def _resolve(self, id: str) -> Container | None:
        try:
            return self.get(id)
        except RopewalkError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    # While it runs.

    async def exec_sync(self, id: str, command: Sequence[str], timeout: float) -> ExecResult:
        """Run a command in a running container; `timeout` seconds, 0 for none."""
        container, handler = await self._running(id)
        if not command:
            raise RopewalkError("the command is empty", kind=Kind.INVALID)
        assert container.task is not None
        process = build.exec_process(handler.spec(container.id), command)
        return await handler.exec(container.id, container.task, process, timeout=timeout, limit=EXEC_LIMIT)

    async def reopen_log(self, id: str) -> None:
        container, handler = await self._running(id)
        assert container.task is not None
        await handler.reopen_log(container.id, container.task)

    async def checkpoint(self, id: str, location: str, timeout: float) -> None:
        """Write a new archive at `location` of a running container, which runs on. Stop and Remove overtake it, and a
        client that leaves ends it."""
        await self.checkpoints.check(self.get(id))
        container = self.get(id)
        key = f"checkpoint of container {container.id} to {location}"
        await self._saves.join(key, lambda: self._save(container, location, timeout))

    async def _save(self, container: Container, location: str, timeout: float) -> None:
        async with self._queues.making(container.pod_id):
            container, handler = await self._running(container.id)
            await self.checkpoints.save(container, handler, location, timeout)

    async def update(self, id: str, resources: LinuxContainerResources) -> None:
        """New limits for a created or running container; the row tells the new values."""
        container = self.get(id)
        refusals.check_update(self._handler(container.id))
        limits.check(resources)
        key = f"update {ids.new_id()} of container {container.id}"  # none joins another one's
        await self._changes.join(key, lambda: self._update(container, resources))

    async def _update(self, container: Container, resources: LinuxContainerResources) -> None:
        async with self._queues.turn(container.pod_id):
            container = self.containers[container.id]
            if container.phase is ContainerPhase.EXITED or container.task is None:
                raise WrongState(f"container {container.id!r} is {container.phase.value}: its limits are of no use")
            await self._handler(container.id).update(container.id, container.task, resources)
            self.containers.apply(container.id, phases.resized, resources)

    async def _running(self, id: str) -> tuple[Container, Handler]:
        container = self.get(id)
        await self._queues.adopted(container.pod_id)
        container = self.containers[container.id]
        if container.phase is not ContainerPhase.RUNNING:
            raise WrongState(f"container {container.id!r} is {container.phase.value}, not running")
        return container, self._handler(container.id)

    async def close(self) -> None:
        """Stop watching; the containers go on."""
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


def _may_run(container: Container) -> bool:
    """CREATED or RUNNING: its end is awaited, and told."""
    return container.task is not None and container.phase in (ContainerPhase.CREATED, ContainerPhase.RUNNING)


async def _all(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Every coroutine runs to its end; the first failure is raised afterwards."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


CREATE = (
    Step("snapshot", Containers.prepare_snapshot, Containers.remove_snapshot),
    Step("task", Containers.create_task, Containers.delete_task),
)
