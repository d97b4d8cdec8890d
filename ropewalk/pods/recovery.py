"""After a kill: what each row means now, decided purely, then done.

The rows say what was asked, the kernel what is alive, the exit file how it ended. All rows are in memory before the
socket is bound; adoption runs while it answers, and calls on one pod wait for that pod only. What no row owns is
undone last.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable

from ropewalk.errors import RopewalkError
from ropewalk.linux import cgroup, cgroup_systemd
from ropewalk.network.network import Network
from ropewalk.pods import phases, placement
from ropewalk.pods.containers import Containers
from ropewalk.pods.queues import Queues
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase
from ropewalk.pods.sandboxes import Sandboxes
from ropewalk.runtimes.handler import PROBE, Handler, Observation
from ropewalk.runtimes.registry import Handlers
from ropewalk.storage.snapshotter import SnapshotKind, Snapshotter

log = logging.getLogger(__name__)

DEADLINE = 30.0  # seconds for one pod; its calls wait, the others do not
RETRY = 30.0  # seconds between attempts at what could not be undone


class Decision(enum.Enum):
    UNDO = "undo"  # it was being made, nobody was told: as if never asked
    KEEP = "keep"  # it has ended, and that is known
    WATCH = "watch"  # the same process is alive: wait for it again
    EXITED = "exited"  # it ended while nobody looked; the exit file tells how
    LOST = "lost"  # neither process nor exit file, or another boot


def decide(container: Container, boot_id: str, seen: Observation | None) -> Decision:
    """What a container's row means now. `seen` is None when there is nothing to observe."""
    if container.phase is ContainerPhase.MAKING:
        return Decision.UNDO
    if container.phase is ContainerPhase.EXITED:
        return Decision.KEEP
    if container.boot_id != boot_id or seen is None:
        return Decision.LOST
    if seen.alive:
        return Decision.WATCH
    return Decision.EXITED if seen.exit is not None else Decision.LOST


class Recovery:
    """Adopts what an earlier daemon left."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        containers: Containers,
        queues: Queues,
        network: Network,
        snapshotter: Snapshotter,
        cgroups: cgroup.Cgroups,
        handlers: Handlers,
        *,
        instance: str,
        state: str,
        boot_id: str,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._queues = queues
        self._network = network
        self._snapshotter = snapshotter
        self._cgroups = cgroups
        self._handlers = handlers
        self._instance = instance
        self._state = state
        self._boot_id = boot_id
        self._now = now
        self._due: set[str] = set()  # pods of an earlier daemon that are not adopted, or not wholly
        self._swept: set[str] = set()

    def prepare(self) -> None:
        """Before the socket is bound: addresses and ports of living pods are theirs again, what a reboot ended is told
        as ended, and every recorded pod is closed to calls until it is adopted. Nothing here blocks."""
        pods = list(self._sandboxes.pods)
        self._network.adopt({p.id: p.attachment for p in pods if p.attachment is not None and not p.torn_down})
        self._note_reboot()
        self._due = {pod.id for pod in pods}
        for pod in pods:
            self._queues.begin_adoption(pod.id)

    def _note_reboot(self) -> None:
        """Rows of another boot: whoever reads them before the adoption would act on what is not there any more."""
        for pod in self._sandboxes.pods:
            if pod.boot_id != self._boot_id and pod.phase is PodPhase.READY:
                log.warning("pod sandbox is not ready any more", extra={"pod": pod.id, "why": "the node was restarted"})
                self._sandboxes.pods.apply(pod.id, phases.notready, derivable=True)
        for container in self._containers.containers:
            if container.boot_id != self._boot_id and decide(container, self._boot_id, None) is Decision.LOST:
                self._lost(container.id, "the node was restarted; nobody saw how it ended")

    async def run(self) -> None:
        """Adopt every pod of an earlier daemon in parallel, then undo what no row owns. What is being made by now is
        none of that."""
        started = time.monotonic()
        due = len(self._due)
        await self._adopt_all()
        for container in list(self._containers.containers):
            if container.pod_id not in self._sandboxes.pods:
                await self._containers.try_undo(container.id)
        log.info("adopted", extra={"pods": due, "seconds": round(time.monotonic() - started, 3)})
        await self._sweep()

    async def _adopt_all(self) -> None:
        """Those that are still due. One that was removed meanwhile is done with."""
        self._due = {id for id in self._due if id in self._sandboxes.pods}
        await asyncio.gather(*(self._adopt(self._sandboxes.pods[id]) for id in self._due))

    async def retry(self) -> None:
        """For as long as the daemon runs: adopt again what could not be adopted, undo again what an undo left behind
        (its row is still MAKING), and sweep again what could not be swept."""
        while True:
            await asyncio.sleep(RETRY)
            await self._adopt_all()
            for pod in list(self._sandboxes.pods):
                if pod.phase is PodPhase.MAKING and not self._sandboxes.is_making(pod):
                    await self._undo_pod(pod.id)
            for container in list(self._containers.containers):
                if container.phase is ContainerPhase.MAKING and not self._containers.is_making(container):
                    await self._containers.try_undo(container.id)
            await self._sweep()

    async def _adopt(self, pod: Pod) -> None:
        """A container that cannot be adopted keeps neither its pod nor the others from it; then all is due again."""
        members = self._containers.of(pod.id)
        try:
            async with asyncio.timeout(DEADLINE):
                ended = await asyncio.gather(*map(self._adopt_container, members), return_exceptions=True)
                await self._adopt_pod(pod.id)
            for error in filter(None, ended):
                raise error
            self._due.discard(pod.id)
        except TimeoutError:
            log.error("adoption takes longer than its deadline", extra={"pod": pod.id, "seconds": DEADLINE})
        except Exception as error:  # also what a handler of another package raises
            log.error("adoption failed, it is tried again", extra={"pod": pod.id, "error": str(error)})
        finally:
            self._queues.end_adoption(pod.id)

    async def _adopt_pod(self, id: str) -> None:
        pod = self._sandboxes.pods.get(id)  # calls do not wait for a repeated adoption: it may have been stopped
        if pod is None:
            return
        if pod.phase is PodPhase.MAKING:
            if not self._sandboxes.is_making(pod):
                await self._undo_pod(pod.id)
        elif pod.phase is PodPhase.READY:
            why = self._sandboxes.verify(pod)
            if not why and pod.attachment is not None:
                why = await self._network.check(pod.id, pod.attachment)
                pod = self._sandboxes.pods.get(id)
                if pod is None or pod.phase is not PodPhase.READY:
                    return
            if why:
                log.warning("pod sandbox is not ready any more", extra={"pod": pod.id, "why": why})
                self._sandboxes.pods.apply(pod.id, phases.notready, derivable=True)
            else:
                self._sandboxes.watch(pod)

    async def _adopt_container(self, container: Container) -> None:
        """What is watched was made, or adopted, by this daemon."""
        if self._containers.is_watched(container.id) or self._containers.is_making(container):
            return
        seen = None
        if container.task is not None and container.boot_id == self._boot_id:
            seen = await self._handlers.of(container.handler).observe(container.id, container.task)
            now = self._containers.containers.get(container.id)
            if now is None:
                return  # removed meanwhile, see _adopt_pod
            container = now
        decision = decide(container, self._boot_id, seen)
        apply = self._containers.containers.apply
        if seen is not None and seen.started and container.phase is ContainerPhase.CREATED:
            at = seen.exit.at if seen.exit is not None else self._now()  # StartContainer could not record it
            apply(container.id, phases.started, at, derivable=True)
        if decision is Decision.UNDO:
            await self._containers.try_undo(container.id)
        elif decision is Decision.WATCH:
            self._containers.watch(container)
        elif decision is Decision.EXITED:
            assert seen is not None
            apply(container.id, phases.exited, seen.exit, derivable=True)
        elif decision is Decision.LOST:
            self._lost(container.id, "it ended while the daemon was down; nobody saw how")
        if seen is not None and not seen.alive and decision is not Decision.UNDO:
            await self._containers.end_orphans(container)

    def _lost(self, id: str, why: str) -> None:
        self._containers.containers.apply(id, phases.exited, phases.lost(self._now(), why), derivable=True)

    async def _undo_pod(self, id: str) -> None:
        try:
            await self._sandboxes.undo(id)
        except RopewalkError as error:
            log.warning("cannot undo yet", extra={"pod": id, "error": error.message})

    def _sweeps(self) -> dict[str, Callable[[], Awaitable[list[str]]]]:
        """Each mechanism lists what carries this instance's names; what no row owns is undone. Owners are asked for
        anew each time, without an await before the listing: creates may be under way by now."""
        handlers = self._handlers.items()
        return {
            **{f"handler {name}": functools.partial(self._sweep_handler, handler) for name, handler in handlers},
            "network": self._network.sweep,
            "snapshots": self._sweep_snapshots,
            "directories": self._sweep_directories,
            "checkpoints": self._containers.checkpoints.sweep,
            "cgroups": self._sweep_cgroups,
        }

    async def _sweep(self) -> None:
        """Those that are still due, each whatever becomes of the others; `retry` repeats what failed."""
        found: list[str] = []
        for what, sweep in self._sweeps().items():
            if what in self._swept:
                continue
            try:
                found += await sweep()
                self._swept.add(what)
            except Exception as error:  # also what a handler of another package raises
                log.warning("a sweep failed, it is tried again", extra={"what": what, "error": str(error)})
        if found:
            log.warning("undone, no record owned them", extra={"found": found})

    async def _sweep_handler(self, handler: Handler) -> list[str]:
        return await handler.sweep(self._pods() | {c.id for c in self._containers.containers})

    def _pods(self) -> set[str]:
        return {pod.id for pod in self._sandboxes.pods}

    async def _sweep_snapshots(self) -> list[str]:
        """Writable layers of containers; an image's own are images/pull's to sweep."""
        owned = {c.snapshot for c in self._containers.containers}
        stray = [
            info.name
            for info in self._snapshotter.list()
            if info.kind is SnapshotKind.ACTIVE and len(info.name) == 64 and info.name not in owned
        ]
        for key in stray:
            await self._snapshotter.remove(key)
        return stray

    async def _sweep_directories(self) -> list[str]:
        pods = self._pods()
        base = f"{self._state}/pods"
        stray = [name for name in (os.listdir(base) if os.path.isdir(base) else []) if name not in pods]
        for name in stray:
            self._sandboxes.remove_directory(name)
        return [f"{base}/{name}" for name in stray]

    async def _sweep_cgroups(self) -> list[str]:
        """Of pods without a parent, by either driver. Trials that run now are the handlers' to sweep; those of a
        handler that is configured no more, or of the other driver, are not."""
        owned = {pod.cgroup for pod in self._sandboxes.pods}
        own = placement.root(self._instance, self._cgroups.driver)
        trials = tuple(f"{PROBE}{name}-" for name in self._handlers)

        def is_trial(path: str) -> bool:
            return path.startswith(f"{own}/") and cgroup_systemd.name(path).startswith(trials)

        present = [path for root in placement.roots(self._instance) for path in self._cgroups.list(root)]
        stray = [p for p in present if p.count("/") == 2 and p not in owned and not is_trial(p)]
        for path in stray:
            await self._cgroups.kill(path)
            await placement.remove(self._cgroups, path)
        return stray
