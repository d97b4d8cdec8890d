from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.state.database import Database
from ropewalk.storage import usage
from ropewalk.storage.content import Content
from ropewalk.storage.snapshotter import Usage
from ropewalk.storage.snapshotters import overlay
from tests.fakes.inline import InlineOffload

T = TypeVar("T")


class Timed(InlineOffload):
    """Walks trees, and says how long it took: `seconds` by the name of a file in the tree."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.walked: list[str] = []

    async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        roots, budget = args
        results: Any = await super().call(fn, *args, timeout=timeout)
        for number, root in enumerate(roots):
            name = next(iter(path.name for path in Path(root).iterdir()), "")
            self.walked.append(name)
            took = self.seconds.get(name, 0.001)
            results[number] = None if took > budget else (*results[number][:2], took)
        found: T = results
        return found


class World:
    def __init__(self, directory: Path) -> None:
        self.database = Database(str(directory / "state.db"))
        self.snapshotter = overlay.Snapshotter(str(directory / "snapshots"), self.database, InlineOffload())
        self.content = Content(str(directory / "content"), InlineOffload())
        self.worker = Timed()
        self.counter = usage.Counter([self.snapshotter], self.worker)

    async def container(self, name: str, size: int = 0) -> None:
        await self.snapshotter.prepare(name, "")
        Path(self.snapshotter.directory(name), name).write_bytes(b"x" * size)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.snapshotter.close()
    world.database.close()


async def test_what_a_container_writes_is_seen(world: World) -> None:
    await world.container("a", 1 << 20)
    await world.container("b")
    assert await world.snapshotter.usage("a") == Usage()
    before = time.time_ns()
    await world.counter.count_small()
    found = await world.snapshotter.usage("a")
    assert found.bytes >= 1 << 20
    assert found.inodes == 2
    assert before <= found.at <= time.time_ns()
    assert world.worker.walked == ["a", "b"]
    assert world.worker.calls == ["measure_each"]


async def test_nothing_runs_without_containers(world: World) -> None:
    await world.counter.count_small()
    await world.counter.count_large()
    assert world.worker.calls == []


async def test_a_large_tree_is_counted_alone_and_rests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    await world.container("large", 1 << 20)
    await world.container("small")
    world.worker.seconds["large"] = 3.0
    await world.counter.count_small()
    assert await world.snapshotter.usage("large") == Usage()
    await world.counter.count_small()
    await world.counter.count_large()
    await world.counter.count_large()
    assert world.worker.walked == ["large", "small", "small", "large"]
    assert (await world.snapshotter.usage("large")).bytes >= 1 << 20
    now += 3 * usage.SHARE
    world.worker.seconds["large"] = 0.01
    await world.counter.count_large()
    await world.counter.count_small()
    assert world.worker.walked[4:] == ["large", "large", "small"]


async def test_a_container_removed_meanwhile_is_forgotten(world: World) -> None:
    await world.container("a", 10)
    await world.counter.count_small()
    await world.snapshotter.remove("a")
    await world.container("a", 10)
    assert await world.snapshotter.usage("a") == Usage()


async def test_counting_goes_on_after_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def call(fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        nonlocal calls
        calls += 1
        raise RopewalkError("did not answer", kind=Kind.TIMEOUT)

    monkeypatch.setattr(usage, "INTERVAL", 0.0)
    monkeypatch.setattr(world.worker, "call", call)
    await world.container("a")
    running = asyncio.create_task(world.counter.run())
    while calls < 3:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "disk usage was not counted" in caplog.text


async def test_totals(world: World) -> None:
    assert usage.total(world.content, [world.snapshotter]) == usage.Totals(Usage(), Usage())
    await world.container("layer", 1 << 20)
    await world.snapshotter.commit("name", "layer")
    await world.content.write("sha256:" + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", b"")
    await world.container("container", 1 << 21)
    await world.counter.count_small()
    totals = usage.total(world.content, [world.snapshotter])
    assert 1 << 20 < totals.images.bytes < 1 << 21 < totals.containers.bytes
    assert (totals.images.inodes, totals.containers.inodes) == (3, 2)
