"""A snapshotter whose process is killed at any moment, and one on a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ropewalk.linux import mount
from ropewalk.linux.offload import Offload
from ropewalk.state.database import Database
from ropewalk.storage.snapshotter import SnapshotKind
from ropewalk.storage.snapshotters import native, overlay
from ropewalk.storage.snapshotters.directories import DirectorySnapshotter

# Layers and containers come and go as fast as they can, each round committing one layer more and forgetting some.
BUSY = """
import asyncio, importlib, sys
from ropewalk.linux.offload import Offload
from ropewalk.state.database import Database
from ropewalk.storage.snapshotter import Usage

async def main(name, directory):
    module = importlib.import_module("ropewalk.storage.snapshotters." + name)
    snapshotter = module.Snapshotter(directory + "/snapshots", Database(directory + "/state.db"), Offload(2))
    await snapshotter.start()
    for info in snapshotter.list():
        if info.kind.value == "active":
            await snapshotter.remove(info.name)
    print("started", flush=True)
    for round in range(100000):
        await snapshotter.prepare("extract", "")
        open(snapshotter.directory("extract") + "/file", "w").close()
        await snapshotter.commit("layer", "extract", usage=Usage(), synced=True)
        await snapshotter.prepare("container", "layer")
        await snapshotter.remove("container")
        await snapshotter.remove("layer")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", [overlay.Snapshotter, native.Snapshotter])
async def test_a_kill_at_any_moment_is_repaired(tmp_path: Path, kind: type[DirectorySnapshotter]) -> None:
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", BUSY, kind.name, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(random.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        await check(tmp_path, kind)


async def check(directory: Path, kind: type[DirectorySnapshotter]) -> None:
    """Every directory has its row, every layer its files, and what was interrupted can be repeated and removed."""
    database, worker = Database(str(directory / "state.db")), Offload(1)
    snapshotter = kind(str(directory / "snapshots"), database, worker)
    rows = {id.rpartition("/")[2] for id, _ in database.rows("snapshots")}
    assert set(os.listdir(directory / "snapshots")) - {"trash"} <= rows
    for info in snapshotter.list():
        if info.kind is SnapshotKind.COMMITTED:
            assert os.listdir(snapshotter.directory(info.name)) == ["file"]
        else:
            await snapshotter.prepare(info.name, info.parent)
            await snapshotter.remove(info.name)
    await snapshotter.start()
    await asyncio.wait_for(snapshotter.emptied(), 30)
    assert os.listdir(directory / "snapshots/trash") == []
    await snapshotter.close()
    await worker.close()
    database.close()


async def test_on_a_full_disk_a_daemon_starts_and_removes(tmp_path: Path) -> None:
    mount.tmpfs(str(tmp_path), size=8 << 20)
    try:
        for full in (False, True):
            if full:
                with open(tmp_path / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while file.write(b"x" * 4096):
                        pass
            database, worker = Database(str(tmp_path / "state.db")), Offload(1)
            snapshotter = overlay.Snapshotter(str(tmp_path / "snapshots"), database, worker)
            await snapshotter.start()
            if full:
                await snapshotter.remove("container")
                await snapshotter.emptied()
                assert snapshotter.list() == []
                assert os.listdir(tmp_path / "snapshots") == ["trash"]
            else:
                await snapshotter.prepare("container", "")
            await snapshotter.close()
            await worker.close()
            database.close()
    finally:
        mount.umount_all(str(tmp_path))
