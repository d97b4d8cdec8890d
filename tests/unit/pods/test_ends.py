"""An end is told on evidence: what this daemon lacks for a while, or a handler's mistake, is none."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.pods import ends
from ropewalk.pods.records import ContainerPhase
from ropewalk.runtimes.handler import ContainerPlan, Exit, Task
from tests.fakes.world import FakeHandler, World
from tests.unit.pods.conftest import Bench, container_spec, pod_spec

EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
BUG = KeyError("a handler's mistake")
REFUSED = RopewalkError("its handler does not know")
GONE = Task(pid=2**22 + 1, pid_start=1)  # above the highest pid_max
ALIVE = Task(pid=os.getpid(), pid_start=process.start_time(os.getpid()) or 0)


class Failing(FakeHandler):
    """`failures` come before the answer."""

    def __init__(self, failures: list[Exception], task: Task) -> None:
        super().__init__(World())
        self.failures = failures
        self.task = task
        self.asked = 0

    async def create(self, plan: ContainerPlan) -> Task:
        self.world.processes[plan.id] = self.task
        self.world.ended[plan.id] = asyncio.Event()
        return self.task

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return await super().wait(id, task, cgroup)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "PAUSES", (0.0, 0.0, 0.0))


async def ended(bench: Bench, failing: Failing) -> tuple[int, str, str]:
    """Of a container whose handler is that one: code, reason and message of its end."""
    container = await made(bench, failing)
    failing.world.exits[container] = Exit(code=7, at=5)
    failing.world.ended[container].set()
    await bench.daemon.containers._watches[container]
    found = bench.daemon.containers.get(container)
    assert found.phase is ContainerPhase.EXITED
    return found.exit_code, found.reason, found.message


async def made(bench: Bench, failing: Failing) -> str:
    bench.daemon.containers._handlers._handlers["crun"] = failing
    pod = await bench.daemon.sandboxes.run(pod_spec())
    return (await bench.daemon.containers.create(pod.id, container_spec())).id


@pytest.mark.parametrize("failure", [EMFILE, BUG, REFUSED])
async def test_as_long_as_the_process_is_there_its_end_is_asked_for(bench: Bench, failure: Exception) -> None:
    failing = Failing([failure] * 20, ALIVE)
    assert await ended(bench, failing) == (7, "Error", "")
    assert failing.asked == 21


async def test_the_container_runs_on_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a signal to it: it took a container's life that the daemon had no descriptor left."""
    monkeypatch.setattr(ends, "PAUSES", (600.0,))
    failing = Failing([EMFILE], ALIVE)
    container = await made(bench, failing)
    async with asyncio.timeout(20):
        while not failing.asked:
            await asyncio.sleep(0)
        await bench.daemon.containers.start(container)
    assert bench.daemon.containers.get(container).phase is ContainerPhase.RUNNING
    assert (list(failing.world.processes), failing.world.signals) == ([container], [])


async def test_a_handler_that_does_not_know_is_believed_once_the_process_is_gone(bench: Bench) -> None:
    failing = Failing([REFUSED] * 20, GONE)
    assert await ended(bench, failing) == (255, "Unknown", "nobody saw it end: its handler does not know")
    assert failing.asked == 1


@pytest.mark.parametrize("failure", [EMFILE, BUG])
async def test_of_what_is_gone_the_end_may_be_told_by_a_file_that_cannot_be_opened_now(
    bench: Bench, failure: Exception
) -> None:
    assert await ended(bench, Failing([failure] * 3, GONE)) == (7, "Error", "")


@pytest.mark.parametrize("failure", [EMFILE, BUG])
async def test_what_is_gone_and_never_told_is_lost(bench: Bench, failure: Exception) -> None:
    failing = Failing([failure] * 20, GONE)
    code, reason, message = await ended(bench, failing)
    assert (code, reason, failing.asked) == (255, "Unknown", 4)
    assert str(failure) in message


async def test_who_cannot_ask_the_kernel_knows_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int, start: int) -> bool:
        raise EMFILE

    monkeypatch.setattr(process, "is_alive", fail)
    assert await ended(bench, Failing([EMFILE] * 20, GONE)) == (7, "Error", "")


async def test_a_pods_process_is_waited_for_as_soon_as_there_is_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [EMFILE, EMFILE]
    real = process.ended

    async def scarce(pid: int, start: int) -> None:
        if failures:
            raise failures.pop()
        await real(pid, start)

    monkeypatch.setattr(process, "ended", scarce)
    with subprocess.Popen(["sleep", "600"]) as child:
        waiting = asyncio.ensure_future(
            ends.of_process("pod", Task(pid=child.pid, pid_start=process.start_time(child.pid) or 0))
        )
        async with asyncio.timeout(20):
            while failures:
                await asyncio.sleep(0)
        assert not waiting.done()
        child.kill()
        await waiting
