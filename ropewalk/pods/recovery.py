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
from ropewalk.pods.checkpoints import Checkpoints
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
        saved: Checkpoints,
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
        self._checkpoints = saved
        self._instance = instance
        self._state = state
        self._boot_id = boot_id
        self._now = now
        self._swept: set[str] = set()

    def prepare(self) -> None:
        """Before the socket is bound: addresses and ports of living pods are theirs again, and every recorded pod is
        closed to calls until it is adopted. Nothing here blocks."""
        pods = list(self._sandboxes.pods)
        self._network.adopt({p.id: p.attachment for p in pods if p.attachment is not None and not p.torn_down})
        for pod in pods:
            self._queues.begin_adoption(pod.id)

    async def run(self) -> None:
        """Adopt every pod in parallel, then undo what no row owns."""
        started = time.monotonic()
        pods = list(self._sandboxes.pods)
        await asyncio.gather(*(self._adopt(pod) for pod in pods))
        for container in list(self._containers.containers):
            if container.pod_id not in self._sandboxes.pods:
                await self._undo_container(container.id)
        log.info("adopted", extra={"pods": len(pods), "seconds": round(time.monotonic() - started, 3)})
        await self._sweep()

    async def retry(self) -> None:
        """For as long as the daemon runs: undo again what an undo left behind (its row is still MAKING), and sweep
        again what could not be swept."""
        while True:
            await asyncio.sleep(RETRY)
            for pod in list(self._sandboxes.pods):
                if pod.phase is PodPhase.MAKING and not self._sandboxes.is_making(pod):
                    await self._undo_pod(pod.id)
            for container in list(self._containers.containers):
                if container.phase is ContainerPhase.MAKING and not self._containers.is_making(container):
                    await self._undo_container(container.id)
            await self._sweep()

    async def _adopt(self, pod: Pod) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.gather(*(self._adopt_container(c) for c in self._containers.of(pod.id)))
                await self._adopt_pod(pod)
        except TimeoutError:
            log.error("adoption takes longer than its deadline", extra={"pod": pod.id, "seconds": DEADLINE})
        except (RopewalkError, OSError) as error:
            log.error("adoption failed", extra={"pod": pod.id, "error": str(error)})
        finally:
            self._queues.end_adoption(pod.id)

    async def _adopt_pod(self, pod: Pod) -> None:
        if pod.phase is PodPhase.MAKING:
            await self._undo_pod(pod.id)
        elif pod.phase is PodPhase.READY:
            why = "the node was restarted" if pod.boot_id != self._boot_id else self._sandboxes.verify(pod)
            if not why and pod.attachment is not None:
                why = await self._network.check(pod.id, pod.attachment)
            if why:
                log.warning("pod sandbox is not ready any more", extra={"pod": pod.id, "why": why})
                self._sandboxes.pods.apply(pod.id, phases.notready, derivable=True)
            else:
                self._sandboxes.watch(pod)

    async def _adopt_container(self, container: Container) -> None:
        seen = None
        if container.task is not None and container.boot_id == self._boot_id:
            seen = await self._handlers.of(container.handler).observe(container.id, container.task)
        decision = decide(container, self._boot_id, seen)
        apply = self._containers.containers.apply
        if seen is not None and seen.started and container.phase is ContainerPhase.CREATED:
            at = seen.exit.at if seen.exit is not None else self._now()  # StartContainer could not record it
            apply(container.id, phases.started, at, derivable=True)
        if decision is Decision.UNDO:
            await self._undo_container(container.id)
        elif decision is Decision.WATCH:
            self._containers.watch(container)
        elif decision is Decision.EXITED:
            assert seen is not None
            apply(container.id, phases.exited, seen.exit, derivable=True)
        elif decision is Decision.LOST:
            rebooted = container.boot_id != self._boot_id
            why = "the node was restarted" if rebooted else "it ended while the daemon was down"
            apply(container.id, phases.exited, phases.lost(self._now(), f"{why}; nobody saw how"), derivable=True)

    async def _undo_pod(self, id: str) -> None:
        try:
            await self._sandboxes.undo(id)
        except RopewalkError as error:
            log.warning("cannot undo yet", extra={"pod": id, "error": error.message})

    async def _undo_container(self, id: str) -> None:
        try:
            await self._containers.undo(id)
        except RopewalkError as error:
            log.warning("cannot undo yet", extra={"container": id, "error": error.message})

    def _sweeps(self) -> dict[str, Callable[[], Awaitable[list[str]]]]:
        """Each mechanism lists what carries this instance's names; what no row owns is undone. Owners are asked for
        anew each time, without an await before the listing: creates may be under way by now."""
        handlers = self._handlers.items()
        return {
            **{f"handler {name}": functools.partial(self._sweep_handler, handler) for name, handler in handlers},
            "network": self._network.sweep,
            "snapshots": self._sweep_snapshots,
            "directories": self._sweep_directories,
            "checkpoints": self._sweep_checkpoints,
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

    async def _sweep_checkpoints(self) -> list[str]:
        return await self._checkpoints.sweep({c.id for c in self._containers.containers})

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
