"""What snapshotters that keep a directory per snapshot share: records, names, commit, remove, repair.

    <directory>/<number>/…     one snapshot; numbers are short, so that the options of 100 layers fit in a page
    <directory>/trash/…        forgotten, being freed (trash.py)

The row comes first and the directory second, and the other way round when a snapshot goes: a kill leaves a row
without directory, which prepare repeats and remove forgets, or a directory without row, which the next start
throws away. A commit is one write of one row, because rows are keyed by number, not by name.
"""

from __future__ import annotations

import collections
import logging
import os
from abc import abstractmethod

import msgspec
from msgspec import Struct

from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.linux import offload
from ropewalk.state import store
from ropewalk.state.database import Database
from ropewalk.storage import blobs, trash, trees
from ropewalk.storage.snapshotter import Info, Mount, SnapshotKind, Snapshotter, Usage

log = logging.getLogger(__name__)

SEAL_DEADLINE = 600.0  # seconds for a layer to be counted and to reach the disk
_TRASH = "trash"


class Snapshot(Struct, frozen=True):
    """A row. `id` is "<snapshotter>/<number>"; `name` is the key, or the name once it is committed."""

    id: str
    name: str
    kind: SnapshotKind
    parent: str = ""
    usage: Usage = Usage()


class DirectorySnapshotter(Snapshotter):
    """The contract, up to what a directory holds and how directories become mounts."""

    def __init__(self, directory: str, database: Database, offload: offload.Offload) -> None:
        self._directory = directory
        self._offload = offload
        self._table = store.Table(database, "snapshots", Snapshot, noun="snapshot")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._trash = trash.Trash(f"{directory}/{_TRASH}", offload)
        self._snapshots: dict[str, Snapshot] = {}  # by key or name
        self._children: collections.Counter[str] = collections.Counter()
        self._counted: dict[str, Usage] = {}  # writable layers, as last counted
        self._last = 0  # number; never used again while this process lives
        self._load()

    @abstractmethod
    def _own(self, snapshot: Snapshot) -> str:
        """The directory that a layer is unpacked into, or that holds a committed one."""

    @abstractmethod
    def _written(self, snapshot: Snapshot) -> str:
        """The directory that grows while a container writes."""

    @abstractmethod
    async def _make(self, snapshot: Snapshot) -> None:
        """Make an active snapshot's directories. Also after a kill half-way: what is there stays."""

    @abstractmethod
    def _mounts(self, snapshot: Snapshot, chain: list[Snapshot]) -> list[Mount]:
        """Mounts of an active snapshot or a view; `chain` is its ancestors, nearest first."""

    @abstractmethod
    async def _seal(self, snapshot: Snapshot, usage: Usage | None, *, synced: bool) -> Usage:
        """Make an active snapshot's files final and durable (they are already if `synced`), and count them."""

    async def start(self) -> None:
        self._trash.start()

    async def close(self) -> None:
        await self._trash.close()

    async def emptied(self) -> None:
        """Wait until the bytes of all that was removed are free."""
        await self._trash.emptied()

    async def prepare(self, key: str, parent: str = "") -> list[Mount]:
        return await self._begin(key, parent, SnapshotKind.ACTIVE)

    async def view(self, key: str, parent: str) -> list[Mount]:
        if self._committed(parent) is None:
            raise NotFound(f"no committed snapshot {parent!r}")
        return await self._begin(key, parent, SnapshotKind.VIEW)

    async def mounts(self, key: str) -> list[Mount]:
        snapshot = self._get(key)
        if snapshot.kind is SnapshotKind.COMMITTED:
            raise WrongState(f"snapshot {key!r} is committed", hint="take a view of it, and mount that")
        return self._mounts(snapshot, self._chain(snapshot))

    def directory(self, key: str) -> str:
        return self._own(self._get(key))

    async def commit(self, name: str, key: str, *, usage: Usage | None = None, synced: bool = False) -> None:
        if self._is_done(name):
            return await self.remove(key)
        snapshot = self._committable(name, key)
        counted = await self._seal(snapshot, usage, synced=synced)
        if self._is_done(name):  # the same layer by another key, meanwhile
            return await self.remove(key)
        if self._snapshots.get(key) is not snapshot:
            raise WrongState(f"snapshot {key!r} was removed while it was committed")
        self._committable(name, key)
        new = self._table.apply(snapshot.id, _committed, name, counted)
        self._forget(snapshot)
        self._remember(new)
        return None

    async def remove(self, key: str) -> None:
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            return
        children = self._children[key] if snapshot.kind is SnapshotKind.COMMITTED else 0
        if children:
            raise WrongState(f"snapshot {key!r} is the parent of {children} others", hint="remove those first")
        self._table.remove(snapshot.id)
        self._forget(snapshot)
        self._trash.throw(self._path(snapshot))

    async def stat(self, key: str) -> Info:
        return _info(self._get(key))

    async def usage(self, key: str) -> Usage:
        return self._counted.get(key) or self._get(key).usage

    def total(self, kind: SnapshotKind) -> Usage:
        """The sum over all snapshots of a kind."""
        usages = [self._counted.get(s.name, s.usage) for s in self._snapshots.values() if s.kind is kind]
        return Usage(bytes=sum(u.bytes for u in usages), inodes=sum(u.inodes for u in usages))

    def writable(self) -> dict[str, str]:
        """Key and directory of each snapshot that may grow; usage.py says by `count` what it saw there."""
        return {s.name: self._written(s) for s in self._snapshots.values() if s.kind is SnapshotKind.ACTIVE}

    def count(self, key: str, usage: Usage) -> None:
        snapshot = self._snapshots.get(key)
        if snapshot is not None and snapshot.kind is SnapshotKind.ACTIVE:
            self._counted[key] = usage

    async def _begin(self, key: str, parent: str, kind: SnapshotKind) -> list[Mount]:
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            return await self._begin_new(key, parent, kind)
        if (snapshot.kind, snapshot.parent) != (kind, parent):
            raise RopewalkError(
                f"snapshot {key!r} exists: {snapshot.kind.value}, parent {snapshot.parent!r}", kind=Kind.EXISTS
            )
        return await self._complete(snapshot)

    async def _begin_new(self, key: str, parent: str, kind: SnapshotKind) -> list[Mount]:
        self._last += 1
        snapshot = Snapshot(f"{self.name}/{self._last}", key, kind, parent)
        self._table.add(snapshot)
        self._remember(snapshot)
        try:
            return await self._complete(snapshot)
        except BaseException as error:
            if self._snapshots.get(key) is snapshot:
                await self.remove(key)
            if isinstance(error, OSError):
                raise blobs.explain(error, f"cannot prepare snapshot {key!r}") from error
            raise

    async def _complete(self, snapshot: Snapshot) -> list[Mount]:
        """No mounts as long as a parent is missing: then only a layer can be unpacked here."""
        if snapshot.kind is SnapshotKind.ACTIVE:
            await self._make(snapshot)
        if snapshot.parent and self._committed(snapshot.parent) is None:
            return []
        return self._mounts(snapshot, self._chain(snapshot))

    def _committable(self, name: str, key: str) -> Snapshot:
        snapshot = self._get(key)
        if name in self._snapshots:
            raise RopewalkError(f"snapshot {name!r} exists, and is not committed", kind=Kind.EXISTS)
        if snapshot.kind is not SnapshotKind.ACTIVE:
            raise WrongState(f"snapshot {key!r} is {snapshot.kind.value}, only an active one can be committed")
        if snapshot.parent and self._committed(snapshot.parent) is None:
            raise WrongState(f"the parent {snapshot.parent!r} of {key!r} is not committed", hint="commit bottom-up")
        return snapshot

    def _is_done(self, name: str) -> bool:
        return self._committed(name) is not None

    def _committed(self, name: str) -> Snapshot | None:
        snapshot = self._snapshots.get(name)
        return snapshot if snapshot is not None and snapshot.kind is SnapshotKind.COMMITTED else None

    def _chain(self, snapshot: Snapshot) -> list[Snapshot]:
        chain = []
        while snapshot.parent:
            parent = self._committed(snapshot.parent)
            if parent is None:
                raise NotFound(f"the parent {snapshot.parent!r} of snapshot {snapshot.name!r} is not there")
            chain.append(parent)
            snapshot = parent
        return chain

    def _get(self, key: str) -> Snapshot:
        snapshot = self._snapshots.get(key)
        if snapshot is None:
            raise NotFound(f"no snapshot {key!r}")
        return snapshot

    def _path(self, snapshot: Snapshot) -> str:
        return f"{self._directory}/{snapshot.id.rpartition('/')[2]}"

    def _remember(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.name] = snapshot
        if snapshot.parent:
            self._children[snapshot.parent] += 1

    def _forget(self, snapshot: Snapshot) -> None:
        del self._snapshots[snapshot.name]
        self._counted.pop(snapshot.name, None)
        if snapshot.parent:
            self._children[snapshot.parent] -= 1
            if not self._children[snapshot.parent]:
                del self._children[snapshot.parent]

    async def _count(self, directory: str, usage: Usage | None, *, synced: bool) -> Usage:
        """Sync and count in a worker, as far as the caller has not done it."""
        if synced and usage is not None:
            return usage
        size, inodes = await self._offload.call(
            trees.finish, directory, not synced, usage is None, timeout=SEAL_DEADLINE
        )
        return usage or Usage(bytes=size, inodes=inodes)

    def _load(self) -> None:
        """Records of the rows, and the repair of what a kill or a power cut left."""
        found = set(os.listdir(self._directory)) - {_TRASH}
        for snapshot in self._table:
            snapshotter, _, number = snapshot.id.rpartition("/")
            if snapshotter != self.name:
                continue
            self._last = max(self._last, int(number))
            if snapshot.kind is SnapshotKind.COMMITTED and number not in found:
                log.warning("committed snapshot has lost its directory", extra={"snapshot": snapshot.name})
                self._table.remove(snapshot.id)
                continue
            found.discard(number)
            self._remember(snapshot)
        for name in found:
            self._trash.hide(f"{self._directory}/{name}")
            self._last = max(self._last, int(name)) if name.isdecimal() else self._last

    def list(self) -> list[Info]:
        return [_info(snapshot) for snapshot in self._snapshots.values()]


def _committed(snapshot: Snapshot, name: str, usage: Usage) -> Snapshot:
    return msgspec.structs.replace(snapshot, name=name, kind=SnapshotKind.COMMITTED, usage=usage)


def _info(snapshot: Snapshot) -> Info:
    return Info(kind=snapshot.kind, name=snapshot.name, parent=snapshot.parent)
