"""overlay: layers are directories, stacked by overlayfs (Documentation/filesystems/overlayfs.rst).

<number>/fs      the layer's files; the upper directory of a container
<number>/work    overlayfs's own, while the snapshot is active
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile

from ropewalk.errors import Unsupported
from ropewalk.linux import mount, offload, paths
from ropewalk.state.database import Database
from ropewalk.storage import trees
from ropewalk.storage.snapshotter import Mount, SnapshotKind, Usage
from ropewalk.storage.snapshotters import directories
from ropewalk.storage.snapshotters.directories import Snapshot

log = logging.getLogger(__name__)

_INDEX_PARAMETER = "/sys/module/overlay/parameters/index"


class Snapshotter(directories.DirectorySnapshotter):
    """See the module. `start` proves that overlayfs works here, or raises Unsupported with what was seen."""

    name = "overlay"

    def __init__(self, directory: str, database: Database, offload: offload.Offload) -> None:
        super().__init__(directory, database, offload)
        # Layers are shared by many overlays, which the inode index (a default of some kernels) refuses.
        self._options = ["index=off"] if os.path.exists(_INDEX_PARAMETER) else []
        # A container's writable layer dies with the power, so it need not be synced (Linux 5.10).
        self._volatile: list[str] = []

    async def start(self) -> None:
        try:
            problem = _probe(self._directory, [*self._options, "volatile"])
            if not problem:
                self._volatile = ["volatile"]
            elif problem := _probe(self._directory, self._options):
                raise Unsupported(
                    f"overlayfs does not work on {self._directory}: {problem}",
                    hint='put the root on ext4, or on xfs with ftype=1, or use the snapshotter "native" (it copies)',
                )
        except OSError as error:  # a full disk: nothing can be proven, but what is there must be stopped and removed
            log.warning("overlayfs was not tried", extra={"directory": self._directory, "error": str(error)})
        await super().start()

    def _own(self, snapshot: Snapshot) -> str:
        return f"{self._path(snapshot)}/fs"

    def _written(self, snapshot: Snapshot) -> str:
        return self._own(snapshot)

    async def _make(self, snapshot: Snapshot) -> None:
        path = self._path(snapshot)
        for directory, mode in ((path, 0o700), (f"{path}/work", 0o700)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, mode)
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/fs", 0o755)
            os.chmod(f"{path}/fs", 0o755)  # whatever the umask is
            self._inherit(snapshot)

    def _inherit(self, snapshot: Snapshot) -> None:
        parent = self._committed(snapshot.parent)
        if parent is not None:
            trees.inherit(self._own(parent), self._own(snapshot))

    def _mounts(self, snapshot: Snapshot, chain: list[Snapshot]) -> list[Mount]:
        layers = [self._own(parent) for parent in chain]
        if snapshot.kind is SnapshotKind.VIEW:
            if len(layers) == 1:
                return [Mount(type="bind", source=layers[0], options=["ro"])]
            return [Mount(type="overlay", layers=layers, options=["ro", *self._options])]
        if not layers:
            return [Mount(type="bind", source=self._own(snapshot), options=["rw"])]
        work = f"{self._path(snapshot)}/work"
        # A volatile mount leaves this mark, clean or not, and the next mount is refused while it is there.
        paths.remove_tree(f"{work}/work/incompat")
        options = ["rw", *self._options, *self._volatile]
        return [Mount(type="overlay", layers=layers, upper=self._own(snapshot), work=work, options=options)]

    async def _seal(self, snapshot: Snapshot, usage: Usage | None, *, synced: bool) -> Usage:
        self._inherit(snapshot)
        counted = await self._count(self._own(snapshot), usage, synced=synced)
        self._trash.throw(f"{self._path(snapshot)}/work")
        return counted


def _probe(directory: str, options: list[str]) -> str:
    """Mount an overlay and hide a directory of its lower layer; "" if that works, else what was seen.

    Raises OSError if not even plain directories can be made."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as probe:
        lower, upper, work, merged = (f"{probe}/{name}" for name in ("lower", "upper", "work", "merged"))
        for path in (lower, upper, work, merged):
            os.mkdir(path)
        os.mkdir(f"{lower}/hidden")
        try:
            mount.overlay(merged, layers=[lower], upper=upper, work=work, options=options)
            try:
                os.rmdir(f"{merged}/hidden")
                # Without d_type in directory entries, overlayfs mounts and then shows its whiteouts as files.
                return "directory entries have no type (d_type)" if os.listdir(merged) else ""
            finally:
                mount.umount(merged)
        except OSError as error:
            return str(error)
