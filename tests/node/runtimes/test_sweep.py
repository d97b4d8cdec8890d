"""What no row owns is swept while the daemon answers already: what is being made at that moment stays."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.linux import cgroup_systemd, process
from ropewalk.runtimes import trial
from ropewalk.runtimes.handlers import crun, runc
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


async def test_what_a_killed_daemons_probe_left_is_found_by_its_cgroup(place: Place) -> None:
    """Even where the state directory, a tmpfs, was emptied meanwhile."""
    trying = trial.running(crun.Handler(crun.Config(), place.node), trial.build_spec())
    task = await trying.__aenter__()
    (left,) = place.cgroups.list(place.cgroup)
    shutil.rmtree(place.state)
    assert await runc.Handler(runc.Config(), place.node).sweep(set()) == []
    assert process.is_alive(task.pid, task.pid_start)
    assert await crun.Handler(crun.Config(), place.node).sweep(set()) == [cgroup_systemd.name(left)]
    assert not process.is_alive(task.pid, task.pid_start)
    assert place.cgroups.list(place.cgroup) == []
    await trying.__aexit__(None, None, None)


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
