"""Disk usage: how much each container has written, and what images take.

Nothing tells how large a directory tree is but walking it. A worker at idle priority does, every few seconds for
all small trees together, and seldom for a large one, alone; readers get the last count from memory
(Snapshotter.usage). Without containers nothing runs, and the worker leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from ropewalk.errors import RopewalkError
from ropewalk.linux import offload
from ropewalk.storage import trees
from ropewalk.storage.content import Content
from ropewalk.storage.snapshotter import SnapshotKind, Usage
from ropewalk.storage.snapshotters.directories import DirectorySnapshotter

log = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds between counts of small trees: what is written is seen within 15 s
QUICK = 0.25  # seconds: a tree that takes longer to walk is large
SHARE = 50  # a large tree rests this many times as long as its walk took: 2% of a processor
DEADLINE = 600.0  # seconds for a walk


class Totals(Struct, frozen=True):
    """What ImageFsInfo reports: images (blobs and committed layers), and what containers wrote."""

    images: Usage
    containers: Usage


def total(content: Content, snapshotters: Iterable[DirectorySnapshotter]) -> Totals:
    """From memory."""
    committed = [content.usage()]
    active = []
    for snapshotter in snapshotters:
        committed.append(snapshotter.total(SnapshotKind.COMMITTED))
        active.append(snapshotter.total(SnapshotKind.ACTIVE))
    return Totals(images=_sum(committed), containers=_sum(active))


def _sum(usages: list[Usage]) -> Usage:
    return Usage(bytes=sum(usage.bytes for usage in usages), inodes=sum(usage.inodes for usage in usages))


class Tree(NamedTuple):
    """A writable layer to be walked."""

    snapshotter: DirectorySnapshotter
    key: str
    directory: str


class Counter:
    """Keeps Snapshotter.usage true. `offload`: of its own, with two workers, `background=True`."""

    def __init__(self, snapshotters: Sequence[DirectorySnapshotter], offload: offload.Offload) -> None:
        self._snapshotters = snapshotters
        self._offload = offload
        self._took: dict[str, float] = {}  # seconds, by key
        self._rests: dict[str, float] = {}  # until when (monotonic) a large tree is left alone

    async def run(self) -> None:
        """Count until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self.count_small))
            group.create_task(self._repeat(self.count_large))

    @staticmethod
    async def _repeat(count: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await count()
            except (OSError, RopewalkError) as error:
                log.warning("disk usage was not counted", extra={"error": str(error)})

    async def count_small(self) -> None:
        """One round over all trees that are walked quickly; those that turn out not to be become large."""
        writable = self._trees()
        self._took = {tree.key: self._took[tree.key] for tree in writable if tree.key in self._took}
        self._rests = {key: until for key, until in self._rests.items() if key in self._took}
        await self._count([tree for tree in writable if self._took.get(tree.key, 0.0) <= QUICK], QUICK)

    async def count_large(self) -> None:
        """One round over the large trees that have rested, one by one."""
        for tree in self._trees():
            if self._took.get(tree.key, 0.0) > QUICK and self._rests.get(tree.key, 0.0) <= time.monotonic():
                await self._count([tree], DEADLINE / 2)
                self._rests[tree.key] = time.monotonic() + SHARE * self._took[tree.key]

    def _trees(self) -> list[Tree]:
        return [
            Tree(snapshotter, key, directory)
            for snapshotter in self._snapshotters
            for key, directory in snapshotter.writable().items()
        ]

    async def _count(self, found: list[Tree], budget: float) -> None:
        if not found:
            return
        directories = [tree.directory for tree in found]
        results = await self._offload.call(trees.measure_each, directories, budget, timeout=DEADLINE)
        now = time.time_ns()
        for tree, result in zip(found, results, strict=True):
            if result is None:
                self._took[tree.key] = max(budget, 2 * QUICK)
                continue
            size, inodes, self._took[tree.key] = result
            tree.snapshotter.count(tree.key, Usage(bytes=size, inodes=inodes, at=now))
