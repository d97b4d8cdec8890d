"""A Sentry that hangs: who wants one of its containers dead kills it, and so its pod; nobody else does. And a `wait`
that does not come to its end: the container does not end with it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes.drivers.runsc import driver
from tests.contract import handlers
from tests.fakes.boxes import Place, run

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("name", ["runsc", "runsc-newer"])
async def test_one_that_hangs(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = await handlers.ready(name, place)
    box = await run(handler, place.plan("sleep", "100"))
    waiting = asyncio.ensure_future(box.wait())
    os.kill(box.task.pid, signal.SIGSTOP)
    monkeypatch.setattr(driver, "VERB_SECONDS", 0.5)
    with pytest.raises(RopewalkError) as caught:
        await handler.signal(box.id, box.task, signal.SIGTERM)
    assert caught.value.kind is Kind.TIMEOUT
    assert process.is_alive(box.task.pid, box.task.pid_start)
    await handler.signal(box.id, box.task, signal.SIGKILL)
    assert (await waiting).code == 137
    await box.kill()
    await box.delete()
    assert not process.is_alive(box.task.pid, box.task.pid_start)


@pytest.mark.parametrize("name", ["runsc", "runsc-newer"])
async def test_a_wait_that_is_killed_is_no_end(name: str, place: Place) -> None:
    """Its monitor was killed before, so that the daemon asks the Sentry itself."""
    handler = await handlers.ready(name, place)
    box = await run(handler, place.plan("sleep", "100"))
    os.kill(box.task.monitor_pid, signal.SIGKILL)
    waiting = asyncio.ensure_future(box.wait())
    async with asyncio.timeout(30):
        while not waiting.done():
            for pid in process.children(os.getpid()):
                if {b"wait", box.id.encode()} <= set(process.command_line(pid)):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.01)
    with pytest.raises(RopewalkError, match="wait"):
        await waiting
    again = asyncio.ensure_future(box.wait())
    await handler.signal(box.id, box.task, signal.SIGKILL)
    assert (await again).code == 137
    await box.kill()
    await box.delete()
