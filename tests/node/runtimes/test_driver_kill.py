"""kill -9 of the daemon at each point of a create: the next one deletes from the id alone, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import cgroup_systemd, process
from ropewalk.runtimes import trial
from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.handler import ContainerPlan, Task
from ropewalk.runtimes.handlers import crun, runc
from tests.fakes.boxes import Place, create, run

POINTS = [
    "bundle:made",
    "bundle:mounted",
    "bundle:written",
    "monitor:spawned",
    "monitor:placed",
    "monitor:going",
    "monitor:created",
]


class Programs(NamedTuple):
    """What makes a container: the handler, and the setting of its monitor."""

    handler: str
    monitor: str


PAIRS = [Programs("crun", "ropewalk-monitor"), Programs("crun", "conmon"), Programs("runc", "ropewalk-monitor")]
TYPES = {"crun": crun, "runc": runc}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


@pytest.fixture(params=PAIRS, ids="-".join)
def runtime(request: pytest.FixtureRequest) -> Programs:
    programs: Programs = request.param
    return programs


async def killed_daemon(place: Place, runtime: Programs, plan: ContainerPlan, point: str) -> None:
    """Run a creator that dies at `point`."""
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.node.runtimes.creator", place.state, *runtime, point),
        stdin=asyncio.subprocess.PIPE,
    )
    await daemon.communicate(msgspec.json.encode(plan))
    assert daemon.returncode == (-signal.SIGKILL if point else 0)


def next_daemon(place: Place, runtime: Programs) -> oci.Driver:
    module: Any = TYPES[runtime.handler]
    driver: oci.Driver = module.Handler(module.Config(monitor=runtime.monitor), place.node)
    return driver


@pytest.mark.parametrize("point", POINTS)
async def test_delete_undoes_a_create_killed_at(place: Place, runtime: Programs, point: str) -> None:
    plan = place.plan("sleep", "100")
    await killed_daemon(place, runtime, plan, point)
    handler = next_daemon(place, runtime)
    await handler.delete(plan.id, plan.cgroup)
    assert place.found() == []
    await handler.delete(plan.id, plan.cgroup)
    again = await run(handler, place.plan("true"))  # the node is as good as before
    assert (await again.wait()).code == 0
    await again.delete()
    assert place.found() == []


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 5, 6, 8, 10, 15])
async def test_delete_ends_a_creator_that_runs_on(place: Place, runtime: Programs, milliseconds: int) -> None:
    """conmon takes the daemon's end for "go": it and crun work on without one. ropewalk-monitor undoes what it began,
    perhaps at that moment."""
    plan = place.plan("sleep", "100")
    await killed_daemon(place, runtime, plan, "monitor:placed")
    await asyncio.sleep(milliseconds / 1000)
    await next_daemon(place, runtime).delete(plan.id, plan.cgroup)
    assert place.found() == []
    await asyncio.sleep(0.05)  # nothing comes back
    assert place.found() == []


@pytest.mark.parametrize("point", ["monitor:spawned", "monitor:created"])
async def test_sweep_finds_it_without_a_row(place: Place, runtime: Programs, point: str) -> None:
    plan = place.plan("sleep", "100")
    await killed_daemon(place, runtime, plan, point)
    assert await next_daemon(place, runtime).sweep(set()) == [plan.id]
    assert place.found() == []


@pytest.mark.parametrize("point", ["bundle:made", "init:written", "init:running"])
async def test_delete_undoes_an_init_killed_at(place: Place, runtime: Programs, point: str) -> None:
    path = cgroup_systemd.child(place.cgroup, "pod")
    init = ContainerPlan(id="pod", pod_id="pod", spec=trial.build_spec(path), cgroup=path)
    await killed_daemon(place, runtime, init, point)
    await next_daemon(place, runtime).delete("pod", path)
    assert place.found() == []


async def test_a_container_survives_its_daemon(place: Place, runtime: Programs) -> None:
    plan = place.plan("sh", "-c", "echo before; sleep 0.2; exit 8")
    await killed_daemon(place, runtime, plan, "")
    handler = next_daemon(place, runtime)
    task = msgspec.json.decode(Path(place.state, "containers", plan.id, "task.json").read_bytes(), type=dict)
    adopted = Task(**task)
    await handler.start(plan.id, adopted)
    assert (await handler.wait(plan.id, adopted, plan.cgroup)).code == 8
    await handler.delete(plan.id, plan.cgroup)
    assert place.found() == []


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.004, 0.006, 0.008])
async def test_a_cancelled_create_is_undone(place: Place, runtime: Programs, delay: float) -> None:
    handler = next_daemon(place, runtime)
    plan = place.plan("sleep", "100")
    making = asyncio.ensure_future(create(handler, plan))
    await asyncio.sleep(delay)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await handler.delete(plan.id, plan.cgroup)
    assert place.found() == []


HOOKED = """#!/bin/sh
test "$1" != --version || exec crun --version
sh -c 'echo $$ > "$0"; exec sleep 1000' {started} &
wait
"""


async def test_what_a_creator_has_started_ends_with_it(place: Place, tmp_path: Path) -> None:
    """A hook, say, whose arguments do not name the container; with a monitor that cannot undo by itself any more."""
    program, started = tmp_path / "crun", tmp_path / "started"
    program.write_text(HOOKED.replace("{started}", str(started)))
    program.chmod(0o755)
    handler = crun.Handler(crun.Config(path=str(program)), place.node)
    plan = place.plan("sleep", "100")
    making = asyncio.ensure_future(handler.create(plan))
    async with asyncio.timeout(20):
        while not started.exists() or not started.read_text():
            await asyncio.sleep(0.01)
    hook = int(started.read_text())
    for pid in handler._creators(os.path.join(handler.containers, plan.id)):
        if process.program_name(pid) == b"ropewalk-monitor":
            os.kill(pid, signal.SIGSTOP)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await handler.delete(plan.id, plan.cgroup)
    assert not process.is_alive(hook, process.start_time(hook) or 0)
    assert place.found() == []


@pytest.mark.parametrize("victim", ["monitor", "runtime"])
async def test_a_killed_helper_fails_the_create(place: Place, runtime: Programs, victim: str) -> None:
    """The error comes at once, and the undo leaves nothing."""
    handler = next_daemon(place, runtime)
    name = (runtime.handler if victim == "runtime" else runtime.monitor).encode()
    failed = False
    while not failed:  # one that came to its end before its helper was found proves nothing
        plan = place.plan("sleep", "100")
        making = asyncio.ensure_future(create(handler, plan))
        directory = os.path.join(place.state, "containers", plan.id).encode()
        while not making.done():
            await asyncio.sleep(0)
            for pid in process.find(directory):
                argv = process.command_line(pid)
                if argv and os.path.basename(argv[0]) == name:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        failed = making.exception() is not None
        await handler.delete(plan.id, plan.cgroup)
        assert place.found() == []


async def unread(place: Place, runtime: Programs) -> tuple[oci.Driver, ContainerPlan, Task]:
    """A created container whose `start` waits for the process to read, as if that had just died."""
    handler = next_daemon(place, runtime)
    plan = place.plan("sleep", "100")
    task = await handler.create(plan)
    fifo = os.path.join(handler.root, plan.id, "exec.fifo")
    os.unlink(fifo)
    os.mkfifo(fifo)
    return handler, plan, task


async def test_a_start_whose_process_is_gone_fails(place: Place, runtime: Programs) -> None:
    """crun would wait for ever, and finds out itself if it is slow; runc looks by itself."""
    handler, plan, task = await unread(place, runtime)
    starting = asyncio.ensure_future(handler.start(plan.id, task))
    await asyncio.sleep(0.05)
    os.kill(task.pid, signal.SIGKILL)
    with pytest.raises(RopewalkError, match=r"ended before|already dead|is not running|has stopped"):
        await asyncio.wait_for(starting, 30)
    await handler.delete(plan.id, plan.cgroup)
    assert place.found() == []


@pytest.mark.parametrize("observed", [True, False])
async def test_a_killed_daemons_start_does_not_stay(place: Place, runtime: Programs, *, observed: bool) -> None:
    handler, plan, task = await unread(place, runtime)
    left = await asyncio.create_subprocess_exec(runtime.handler, f"--root={handler.root}", "start", plan.id)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(left.wait(), 0.1)
    if observed:
        os.kill(task.pid, signal.SIGKILL)
        assert not (await handler.observe(plan.id, task)).started
        assert await left.wait() in (-signal.SIGKILL, 1)  # runc notices by itself, too
    await handler.delete(plan.id, plan.cgroup)
    assert await left.wait() in (-signal.SIGKILL, 1)  # runc notices by itself, too
    assert place.found() == []
