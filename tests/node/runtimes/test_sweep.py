"""What no row owns is swept while the daemon answers already: what is being made at that moment stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Place, run


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


async def test_a_probe_under_way_is_not_swept(place: Place) -> None:
    handler = crun.Handler(crun.Config(), place.node)
    probing = asyncio.ensure_future(handler.probe())
    swept = []
    while not probing.done():
        swept += await handler.sweep(set())
        await asyncio.sleep(0.001)
    assert swept == []
    assert (await probing).works


async def test_a_terminal_being_made_keeps_its_socket(place: Place) -> None:
    old = Path(place.state, "consoles", "conmon-term.OLD")
    old.parent.mkdir()
    old.touch()
    os.utime(old, (0, 0))
    handler = crun.Handler(crun.Config(), place.node)
    plan = place.plan("sh", "-c", "test -t 0 && exit 5", tty=True)
    making = asyncio.ensure_future(run(handler, plan))
    while not making.done():
        await handler.sweep({plan.id})
        await asyncio.sleep(0.001)
    assert (await (await making).wait()).code == 5
    await handler.delete(plan.id, plan.cgroup)
    assert not old.exists()
