"""Fixtures of the handler suites: a place of its own for each test, and each handler that works here in turn."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.linux import orphans, process
from ropewalk.runtimes.handler import Handler
from tests.contract import handlers
from tests.contract.benches import Bench
from tests.fakes.boxes import Place
from tests.fakes.shim import Behaviour


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """The process reaps what its children leave, as the daemon does."""
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    reaper = orphans.Orphans()
    place = Place(tmp_path)
    yield place
    await place.close()
    with contextlib.suppress(TimeoutError):  # a child of somebody else's may live on
        async with asyncio.timeout(1):
            while any(
                (seen := process.stat(pid)) is not None and seen.state == "Z" for pid in process.children(os.getpid())
            ):
                await asyncio.sleep(0.01)
    reaper.close()


@pytest.fixture(params=sorted(handlers.HANDLERS))
def handler_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def handler(handler_name: str, place: Place) -> AsyncIterator[Handler]:
    """Whatever a test deleted is gone without a trace; what it left is deleted by sweep, the same way."""
    handler = await handlers.ready(handler_name, place)
    yield handler
    await handler.sweep(set())
    await handler.close()
    assert place.found() == []


@pytest.fixture
async def bench(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Whatever a test left is swept, and nothing is left then."""
    bench = Bench(place, tmp_path)
    yield bench
    monkeypatch.undo()
    if bench.program.name:
        bench.behave(Behaviour())
    for handler in bench.handlers:
        await handler.sweep(set())
        await handler.close()
    assert place.found() == []
    assert [pid for pid in process.find(os.fsencode(bench.program)) if process.command_line(pid)] == []
