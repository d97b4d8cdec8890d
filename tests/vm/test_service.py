"""The service comes and goes; pods stay. What is in the unit's cgroup may end with it: nothing of theirs is."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import RopewalkError
from tests.vm import guest
from tests.vm.conftest import PodRunner

RUNNING = values.ContainerState.RUNNING
TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done"


class Running(NamedTuple):
    pod: guest.Pod
    id: str
    processes: list[int]


@pytest.fixture
async def running(lab: guest.Lab, run_pod: PodRunner) -> Running:
    pod = await run_pod()
    id = await pod.start("main", "sh", "-c", TICK)
    await pod.says("tick 2")
    return Running(pod, id, lab.processes(pod.cgroup())[:1])


async def still_runs(lab: guest.Lab, client: cri.Client, running: Running) -> None:
    """The same process, its log goes on, and it can be reached and stopped."""
    status = await client.container_status(running.id)
    assert status.state is RUNNING
    assert lab.processes(running.pod.cgroup())[:1] == running.processes
    last = running.pod.output().splitlines()[-1]
    await running.pod.says(f"tick {int(last.split()[1]) + 5}")
    assert (await client.exec_sync(running.id, ["echo", "here"])).stdout == b"here\n"


async def is_back(lab: guest.Lab, before: int) -> None:
    async with asyncio.timeout(guest.READY):
        while lab.pid() in (0, before):
            await asyncio.sleep(0.2)
    await lab.ready()


async def test_restart_leaves_pods_running(lab: guest.Lab, client: cri.Client, running: Running) -> None:
    before = lab.pid()
    lab.run("systemctl", "restart", "ropewalk", timeout=guest.READY)
    await is_back(lab, before)
    await still_runs(lab, client, running)


async def test_stop_and_start_leave_pods_running(lab: guest.Lab, client: cri.Client, running: Running) -> None:
    lab.run("systemctl", "stop", "ropewalk", timeout=guest.READY)
    assert lab.property("ropewalk", "ActiveState") == "inactive"
    assert lab.property("ropewalk", "Result") == "success"
    assert lab.processes("/system.slice/ropewalk.service") == []
    assert lab.processes(running.pod.cgroup())[:1] == running.processes
    with pytest.raises(RopewalkError):
        await client.version()
    lab.run("systemctl", "start", "ropewalk", timeout=guest.READY)
    await lab.ready()
    await still_runs(lab, client, running)


async def test_kill_9_is_followed_by_a_start_that_adopts(lab: guest.Lab, client: cri.Client, running: Running) -> None:
    before = lab.pid()
    lab.run("kill", "-9", str(before))
    await is_back(lab, before)
    await still_runs(lab, client, running)


async def test_an_end_while_the_service_is_down_is_known_afterwards(
    lab: guest.Lab, client: cri.Client, running: Running
) -> None:
    lab.run("systemctl", "stop", "ropewalk", timeout=guest.READY)
    lab.run("kill", "-9", *map(str, running.processes))
    lab.run("systemctl", "start", "ropewalk", timeout=guest.READY)
    await lab.ready()
    status = await running.pod.exited(running.id)
    assert status.exit_code == 137


async def test_the_whole_unit_killed_leaves_pods_running(lab: guest.Lab, client: cri.Client, running: Running) -> None:
    """`systemctl kill` reaches every process of the unit's cgroup, whatever KillMode says."""
    before = lab.pid()
    lab.run("systemctl", "kill", "--kill-whom=all", "--signal=SIGKILL", "ropewalk")
    await is_back(lab, before)
    await still_runs(lab, client, running)
