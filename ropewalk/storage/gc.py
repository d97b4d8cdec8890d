"""Garbage: blobs and snapshots that no image, container or lease reaches.

`mark` decides, from values; `sweep` removes. Roots are what images name (their blobs, the snapshot of their top
layer), what containers stand on (their own snapshot), and what leases hold. A snapshot keeps its ancestors, so the
layers under a running container stay although their image is gone; its blobs go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from msgspec import Struct

from ropewalk.errors import RopewalkError
from ropewalk.storage.content import Content
from ropewalk.storage.leases import Lease, Leases
from ropewalk.storage.snapshotter import Info, Snapshotter

log = logging.getLogger(__name__)


class Roots(Struct, frozen=True):
    """What one image reaches: digests of its documents and layers, names of its snapshots (the top one is enough)."""

    digests: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()


class Garbage(Struct, frozen=True):
    """What nobody reaches; of snapshots, children come before their parents."""

    blobs: list[str]
    snapshots: list[str]


def mark(
    images: Iterable[Roots],
    containers: Iterable[str],
    leases: Iterable[Lease],
    snapshots: Sequence[Info],
    blobs: Iterable[str],
) -> Garbage:
    """`containers` are the keys of their snapshots; `snapshots` and `blobs` are all there are."""
    digests: set[str] = set()
    names = set(containers)
    for image in images:
        digests |= image.digests
        names |= image.snapshots
    for lease in leases:
        digests |= lease.digests
        names |= lease.snapshots
    parents = {info.name: info.parent for info in snapshots}
    reached: set[str] = set()
    for name in names:
        while name and name not in reached:
            reached.add(name)
            name = parents.get(name, "")
    unreached = [info.name for info in snapshots if info.name not in reached]
    return Garbage(blobs=[d for d in blobs if d not in digests], snapshots=_children_first(unreached, parents))


def _children_first(names: list[str], parents: dict[str, str]) -> list[str]:
    """Those with the most ancestors first."""
    depths = {"": 0}

    def depth(name: str) -> int:
        way = []
        while name not in depths:
            way.append(name)
            name = parents.get(name, "")
        for number, each in enumerate(reversed(way), depths[name] + 1):
            depths[each] = number
        return depths[way[0]] if way else depths[name]

    return sorted(names, key=depth, reverse=True)


async def sweep(
    content: Content,
    snapshotters: Iterable[Snapshotter],
    images: Sequence[Roots],
    containers: Sequence[str],
    leases: Leases,
) -> Garbage:
    """Remove what `mark` finds, in every snapshotter. Returns what was removed.

    `images` and `containers` must be what is true now: blobs go, and snapshots are chosen, before the first await. One
    that gains a lease or a child meanwhile is kept."""
    live = leases.live()
    garbage = mark(images, containers, live, (), content.digests())
    for digest in garbage.blobs:
        content.remove(digest)
    unreached = [(each, mark(images, containers, live, each.list(), ()).snapshots) for each in snapshotters]
    removed: list[str] = []
    for snapshotter, names in unreached:
        for name in names:
            if any(name in lease.snapshots for lease in leases.live()):
                continue
            try:
                await snapshotter.remove(name)
                removed.append(name)
            except (OSError, RopewalkError) as error:
                log.info("snapshot is kept", extra={"snapshot": name, "reason": str(error)})
    return Garbage(blobs=garbage.blobs, snapshots=removed)
