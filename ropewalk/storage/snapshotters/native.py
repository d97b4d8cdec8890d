"""native: every snapshot is a full copy of its parent, for file systems on which overlayfs does not work.

    <number>/fs      the whole tree: what is mounted, and what children are copied from
    <number>/layer   a layer being unpacked, in overlay's form (whiteouts, opaque directories); commit applies it to fs

Blocks are shared where the file system can (btrfs, xfs with reflink); elsewhere a container costs an image's size.
"""

from __future__ import annotations

import contextlib
import os

from ropewalk.storage import copies, trees
from ropewalk.storage.snapshotter import Mount, SnapshotKind, Usage
from ropewalk.storage.snapshotters import directories
from ropewalk.storage.snapshotters.directories import Snapshot


class Snapshotter(directories.DirectorySnapshotter):
    """See the module. A container's usage counts the whole copy: that is what it takes on the disk."""

    name = "native"

    def _fs(self, snapshot: Snapshot) -> str:
        return f"{self._path(snapshot)}/fs"

    def _own(self, snapshot: Snapshot) -> str:
        if snapshot.kind is SnapshotKind.COMMITTED:
            return self._fs(snapshot)
        return f"{self._path(snapshot)}/layer"

    def _written(self, snapshot: Snapshot) -> str:
        return self._fs(snapshot)

    async def _make(self, snapshot: Snapshot) -> None:
        for directory, mode in ((self._path(snapshot), 0o700), (self._own(snapshot), 0o755)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, mode)
                os.chmod(directory, mode)  # whatever the umask is
        if not snapshot.parent or self._committed(snapshot.parent) is not None:
            await self._make_copy(snapshot)

    async def _make_copy(self, snapshot: Snapshot) -> None:
        """The tree of the parent; it appears under its name when it is whole."""
        parent = self._committed(snapshot.parent)
        if os.path.isdir(self._fs(snapshot)):
            return
        if parent is None:
            os.mkdir(self._fs(snapshot), 0o755)
            os.chmod(self._fs(snapshot), 0o755)
        else:
            await self._offload.call(
                copies.copy_tree, self._fs(parent), self._fs(snapshot), timeout=directories.SEAL_DEADLINE
            )

    def _mounts(self, snapshot: Snapshot, chain: list[Snapshot]) -> list[Mount]:
        if snapshot.kind is SnapshotKind.VIEW:
            return [Mount(type="bind", source=self._fs(chain[0]), options=["ro"])]
        return [Mount(type="bind", source=self._fs(snapshot), options=["rw"])]

    async def _seal(self, snapshot: Snapshot, usage: Usage | None, *, synced: bool) -> Usage:
        """Never `synced`: what the caller synced is moved here. Counted here: the whole copy, not the layer."""
        del usage, synced
        await self._make_copy(snapshot)
        if os.path.isdir(self._own(snapshot)):
            trees.inherit(self._fs(snapshot), self._own(snapshot))
            await self._offload.call(
                copies.merge_tree, self._own(snapshot), self._fs(snapshot), timeout=directories.SEAL_DEADLINE
            )
        return await self._count(self._fs(snapshot), None, synced=False)
