"""Leases: what a pull has fetched or is about to use stays, although no image names it yet.

A pull takes its lease before it looks whether something is here already, and gives it up after its image's row is
written; so garbage collection never sees a moment in which nobody holds what is needed. The row outlives a kill:
what the pull had fetched then stays for a while, for the pull that the kubelet tries next under the same id.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from ropewalk.state import store
from ropewalk.state.database import Database

ORPHANED = 3600  # seconds that a lease of a daemon that was killed lasts, from when it was last added to


class Lease(Struct, frozen=True):
    """`id` is chosen by the holder, the same for a repeat of the same work."""

    id: str
    digests: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()  # keys and names, in any snapshotter
    at: int = 0  # when it was last added to, seconds since the epoch


class Leases:
    """Leases by id. Those of this process hold until released, those found at the start until they expire."""

    def __init__(self, database: Database) -> None:
        self._table = store.Table(database, "leases", Lease, noun="lease")
        self._held: collections.Counter[str] = collections.Counter()

    def hold(self, id: str, *, digests: Iterable[str] = (), snapshots: Iterable[str] = ()) -> None:
        """Take the lease, or add to it; each call needs its `release`. A repeat after a kill, or beside a holder that
        is still giving up, takes over what the lease holds."""
        lease = self._table.get(id)
        if lease is None:
            self._table.add(_added(Lease(id), frozenset(digests), frozenset(snapshots)))
        else:
            self._table.apply(id, _added, frozenset(digests), frozenset(snapshots))
        self._held[id] += 1

    def release(self, id: str) -> None:
        """Give it up: it is gone with its last holder. Absent is fine."""
        self._held[id] -= 1
        if self._held[id] <= 0:
            del self._held[id]
            self._table.remove(id)

    def live(self) -> list[Lease]:
        """Leases that hold; those of a killed daemon that have expired are removed."""
        oldest = int(time.time()) - ORPHANED
        for lease in self._table:
            if lease.id not in self._held and lease.at < oldest:
                self._table.remove(lease.id)
        return list(self._table)


def _added(lease: Lease, digests: frozenset[str], snapshots: frozenset[str]) -> Lease:
    if digests <= lease.digests and snapshots <= lease.snapshots and lease.at:
        return lease
    return msgspec.structs.replace(
        lease, digests=lease.digests | digests, snapshots=lease.snapshots | snapshots, at=int(time.time())
    )
