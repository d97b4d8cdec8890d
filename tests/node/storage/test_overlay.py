"""The overlay snapshotter on the kernel's terms, with real workers."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import Unsupported
from ropewalk.linux import mount
from ropewalk.linux.offload import Offload
from ropewalk.state.database import Database
from ropewalk.storage import trash, trees, usage
from ropewalk.storage.snapshotters import overlay


class Root:
    def __init__(self, directory: Path) -> None:
        self.database = Database(str(directory / "state.db"))
        self.offload = Offload(2)
        self.snapshotter = overlay.Snapshotter(str(directory / "snapshots"), self.database, self.offload)

    async def close(self) -> None:
        await self.snapshotter.close()
        await self.offload.close()
        self.database.close()


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    root = Root(tmp_path)
    yield root
    await root.close()


async def test_the_probe_leaves_nothing(root: Root, tmp_path: Path) -> None:
    await root.snapshotter.start()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(tmp_path / "snapshots") == ["trash"]


async def test_where_overlay_does_not_work_native_is_advised(tmp_path: Path) -> None:
    """An overlay cannot be the upper directory of another: a node inside a container."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    merged = tmp_path / "merged"
    mount.overlay(
        str(merged), layers=[str(tmp_path / "lower")], upper=str(tmp_path / "upper"), work=str(tmp_path / "work")
    )
    try:
        root = Root(merged)
        with pytest.raises(Unsupported, match=r"overlayfs does not work on .*merged.*native"):
            await root.snapshotter.start()
        assert os.listdir(merged / "snapshots") == ["trash"]
        await root.close()
    finally:
        mount.umount_all(str(merged))


async def test_containers_are_volatile(root: Root) -> None:
    await root.snapshotter.start()
    await root.snapshotter.prepare("extract", "")
    await root.snapshotter.commit("base", "extract")
    (wanted,) = await root.snapshotter.prepare("container", "base")
    assert "volatile" in wanted.options


async def test_layers_are_unpacked_in_real_workers(root: Root) -> None:
    await root.snapshotter.prepare("extract", "")
    Path(root.snapshotter.directory("extract"), "file").write_bytes(b"x" * (1 << 20))
    await root.snapshotter.commit("base", "extract")
    found = await root.snapshotter.usage("base")
    assert (found.bytes >= 1 << 20, found.inodes) == (True, 2)


async def test_a_large_hostile_tree_is_removed(root: Root, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").touch()
    await root.snapshotter.prepare("container", "")
    top = Path(root.snapshotter.directory("container"))
    (top / "link").symlink_to(canary)
    for number in range(trash.SMALL_ENTRIES * 2):
        (top / f"directory{number}").mkdir()
        (top / f"directory{number}/link").symlink_to(canary)
    deep = os.open(top, os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    assert trees.measure(str(top))[1] > 3000
    await root.snapshotter.remove("container")
    await asyncio.wait_for(root.snapshotter.emptied(), 60)
    assert os.listdir(tmp_path / "snapshots/trash") == []
    assert (canary / "file").exists()


async def test_ten_megabytes_are_seen_within_fifteen_seconds(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval is shortened; what is proven is that nothing but the interval has to be waited for."""
    monkeypatch.setattr(usage, "INTERVAL", 0.2)
    worker = Offload(2, background=True)
    counting = asyncio.create_task(usage.Counter([root.snapshotter], worker).run())
    await root.snapshotter.prepare("container", "")
    started = time.monotonic()
    Path(root.snapshotter.directory("container"), "file").write_bytes(b"x" * 10_000_000)
    while (await root.snapshotter.usage("container")).bytes < 10_000_000:
        assert time.monotonic() - started < 60
        await asyncio.sleep(0.05)
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    await worker.close()
