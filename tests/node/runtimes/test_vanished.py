"""A container whose runtime handler left the configuration is ended by whoever stands for it; what the runtime keeps
is swept when its handler is back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import mount, process
from ropewalk.runtimes import vanished
from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Place


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


async def test_it_is_ended_without_its_runtime_which_sweeps_later(place: Place) -> None:
    mine = crun.Handler(crun.Config(), place.node, name="mine")
    await mine.prepare()
    plan = place.plan("sleep", "600")
    task = await mine.create(plan)
    await mine.start(plan.id, task)
    stand_in = vanished.Handler(crun.Config(), place.node, name="mine")
    assert (await stand_in.observe(plan.id, task)).alive
    assert stand_in.spec(plan.id)["process"]["args"] == ["sleep", "600"]
    await stand_in.kill(plan.id, task, plan.cgroup)
    with pytest.raises(RopewalkError, match=r"put \[runtimes\.mine\] back"):
        await stand_in.wait(plan.id, task, plan.cgroup)
    for _ in range(2):
        await stand_in.delete(plan.id, plan.cgroup)
    assert not process.is_alive(task.pid, task.pid_start)
    assert not place.cgroups.exists(plan.cgroup)
    assert [one.target for one in mount.mounts() if plan.id in one.target] == []

    other = crun.Handler(crun.Config(), place.node)
    await other.prepare()
    assert plan.id not in await other.sweep(set())
    again = crun.Handler(crun.Config(), place.node, name="mine")
    await again.prepare()
    assert await again.sweep(set()) == [plan.id]
    assert os.listdir(f"{place.state}/containers") == []
