"""What a kill, a power cut, a failure half-way leaves, and two callers at once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ropewalk.errors import Kind, RopewalkError, WrongState
from ropewalk.state.database import Database
from ropewalk.storage.snapshotter import Mount, SnapshotKind, Usage
from ropewalk.storage.snapshotters import overlay
from tests.fakes.inline import InlineOffload

T = TypeVar("T")


class Slow(InlineOffload):
    """Calls wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        self.started.set()
        await self.go.wait()
        return await super().call(fn, *args, timeout=timeout)


class Root:
    """One root, and the daemons that came and went on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "snapshots"
        self.database = Database(str(directory / "state.db"))
        self.snapshotters: list[overlay.Snapshotter] = []

    def start(self, worker: InlineOffload | None = None) -> overlay.Snapshotter:
        self.snapshotters.append(overlay.Snapshotter(str(self.directory), self.database, worker or InlineOffload()))
        return self.snapshotters[-1]

    def numbers(self) -> set[str]:
        return set(os.listdir(self.directory)) - {"trash"}


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    root = Root(tmp_path)
    yield root
    for snapshotter in root.snapshotters:
        await snapshotter.close()
    root.database.close()


async def commit(snapshotter: overlay.Snapshotter, name: str, parent: str = "") -> None:
    await snapshotter.prepare(f"extract {name}", parent)
    await snapshotter.commit(name, f"extract {name}")


async def test_a_directory_without_row_is_thrown_away(root: Root) -> None:
    await commit(root.start(), "base")
    (root.directory / "7/fs").mkdir(parents=True)
    (root.directory / "probe-x").mkdir()
    after = root.start()
    assert root.numbers() == {"1"}
    await after.prepare("new", "base")
    assert root.numbers() == {"1", "8"}


async def test_an_active_row_without_directory_is_prepared_again_or_removed(root: Root) -> None:
    before = root.start()
    for key in ("again", "gone"):
        await before.prepare(key, "")
    for number in root.numbers():
        os.rename(root.directory / number, root.directory.parent / number)
    after = root.start()
    assert len(after.list()) == 2
    await after.prepare("again", "")
    assert os.path.isdir(after.directory("again"))
    await after.remove("gone")
    assert [info.name for info in after.list()] == ["again"]


@pytest.mark.parametrize("lost", ["fs", "work", "fs work"])
async def test_a_prepare_killed_half_way_is_completed(root: Root, lost: str) -> None:
    await commit(root.start(), "base")
    await root.start().prepare("container", "base")
    for name in lost.split():
        (root.directory / "2" / name).rmdir()
    (wanted,) = await root.start().prepare("container", "base")
    assert os.path.isdir(wanted.upper)
    assert os.path.isdir(wanted.work)


async def test_a_layer_that_lost_its_directory_is_no_layer(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    await commit(root.start(), "base")
    os.rename(root.directory / "1", root.directory.parent / "1")
    after = root.start()
    assert after.list() == []
    assert "lost its directory" in caplog.text
    await commit(after, "base")
    assert [info.name for info in after.list()] == ["base"]


async def test_snapshots_of_another_snapshotter_are_not_seen(root: Root) -> None:
    await commit(root.start(), "base")
    root.database.put("snapshots", "native/9", b'{"id":"native/9","name":"theirs","kind":"committed"}')
    assert [info.name for info in root.start().list()] == ["base"]


async def test_a_failed_prepare_leaves_nothing(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, mode: int = 0o777) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    snapshotter = root.start()
    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(RopewalkError, match="free space") as caught:
        await snapshotter.prepare("key", "")
    assert caught.value.kind is Kind.EXHAUSTED
    assert snapshotter.list() == []
    assert root.database.rows("snapshots") == []


async def test_the_same_layer_committed_twice_at_once(root: Root) -> None:
    worker = Slow()
    snapshotter = root.start(worker)
    await snapshotter.prepare("one", "")
    await snapshotter.prepare("two", "")
    commits = [asyncio.create_task(snapshotter.commit("name", key)) for key in ("one", "two")]
    await worker.started.wait()
    worker.go.set()
    await asyncio.gather(*commits)
    assert [info.name for info in snapshotter.list()] == ["name"]


async def test_a_snapshot_removed_while_it_is_committed(root: Root) -> None:
    worker = Slow()
    snapshotter = root.start(worker)
    await snapshotter.prepare("key", "")
    commit = asyncio.create_task(snapshotter.commit("name", "key"))
    await worker.started.wait()
    await snapshotter.remove("key")
    worker.go.set()
    with pytest.raises((WrongState, OSError)):
        await commit
    assert snapshotter.list() == []


async def test_a_caller_that_synced_and_counted_waits_for_nothing(root: Root) -> None:
    worker = InlineOffload()
    snapshotter = root.start(worker)
    await snapshotter.prepare("key", "")
    await snapshotter.commit("name", "key", usage=Usage(bytes=1, inodes=2), synced=True)
    assert worker.calls == []
    assert await snapshotter.usage("name") == Usage(bytes=1, inodes=2)
    await snapshotter.prepare("key", "")
    await snapshotter.commit("other", "key", usage=Usage(bytes=1, inodes=2))
    assert worker.calls == ["finish"]


async def test_mounts_of_overlay(root: Root) -> None:
    snapshotter = root.start()
    await commit(snapshotter, "base")
    await commit(snapshotter, "top", "base")
    d = root.directory
    (single,) = await snapshotter.view("view one", "base")
    assert single == Mount(type="bind", source=f"{d}/1/fs", options=["ro"])
    (double,) = await snapshotter.view("view two", "top")
    assert (double.type, double.layers, double.upper) == ("overlay", [f"{d}/2/fs", f"{d}/1/fs"], "")
    (container,) = await snapshotter.prepare("container", "top")
    assert (container.layers, container.upper, container.work) == (double.layers, f"{d}/5/fs", f"{d}/5/work")
    (scratch,) = await snapshotter.prepare("scratch", "")
    assert scratch == Mount(type="bind", source=f"{d}/6/fs", options=["rw"])


async def test_directories_are_roots_alone(root: Root) -> None:
    snapshotter = root.start()
    await snapshotter.prepare("container", "")
    for path in (root.directory, root.directory / "1", root.directory / "1/work", root.directory / "trash"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (root.directory / "1/fs").stat().st_mode & 0o777 == 0o755


async def test_totals_are_of_a_kind(root: Root) -> None:
    snapshotter = root.start()
    await snapshotter.prepare("key", "")
    await snapshotter.commit("name", "key", usage=Usage(bytes=5, inodes=2), synced=True)
    await snapshotter.prepare("container", "name")
    snapshotter.count("container", Usage(bytes=7, inodes=1, at=1))
    snapshotter.count("name", Usage(bytes=100))
    snapshotter.count("gone", Usage(bytes=100))
    assert snapshotter.total(SnapshotKind.COMMITTED) == Usage(bytes=5, inodes=2)
    assert snapshotter.total(SnapshotKind.ACTIVE) == Usage(bytes=7, inodes=1)
    assert set(snapshotter.writable()) == {"container"}
