"""The Handler contract: commands run inside a container (ExecSync)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes.handler import Handler
from tests.fakes.boxes import Box, Place, run

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def box(handler: Handler, place: Place) -> AsyncIterator[Box]:
    if handler.capabilities.own_kernel:
        pytest.skip("the node does not see its processes; each such handler has tests of its own")
    box = await run(handler, place.plan("sleep", "100"))
    yield box
    await box.delete()


def running(place: Place, argument: str) -> list[int]:
    """Processes of this test's containers with that argument."""
    inside = set(place.cgroups.processes(place.cgroup))
    return [pid for pid in process.find(argument.encode()) if pid in inside]


async def test_streams_and_code(box: Box) -> None:
    result = await box.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert (await box.exec("sh", "-c", "kill -TERM $$")).code == 143
    assert (await box.exec("sh", "-c", "exit 255")).code == 255


async def test_it_returns_when_the_command_exits(box: Box) -> None:
    assert (await box.exec("sh", "-c", "sleep 100 & echo hi", timeout=30)).stdout == b"hi\n"


async def test_both_streams_are_drained(box: Box) -> None:
    script = "dd if=/dev/zero bs=1024 count=2048 2>/dev/null & dd if=/dev/zero bs=1024 count=2048 >&2 2>/dev/null; wait"
    result = await box.exec("sh", "-c", script, limit=8 << 20)
    assert (len(result.stdout), len(result.stderr)) == (2 << 20, 2 << 20)


async def test_what_exceeds_the_limit_is_dropped(box: Box) -> None:
    result = await box.exec("sh", "-c", "yes | head -c 3000000; echo end >&2", limit=1000)
    assert result.code == 0
    assert len(result.stdout) + len(result.stderr) == 1000


async def test_a_command_that_is_not_there_is_the_callers_error(box: Box) -> None:
    with pytest.raises(RopewalkError, match="no-such-program") as caught:
        await box.exec("no-such-program")
    assert caught.value.kind is Kind.INVALID


async def test_a_stopped_container_runs_nothing(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("true"))
    await box.wait()
    with pytest.raises(RopewalkError) as caught:
        await box.exec("true")
    assert caught.value.kind in (Kind.STATE, Kind.NOT_FOUND)


async def test_a_timeout_kills_the_whole_tree(box: Box, place: Place) -> None:
    """Children, their children, and those that took a session of their own, a new parent and other streams."""
    script = "sleep 71 & (setsid sh -c 'sleep 72 </dev/null >/dev/null 2>&1 &' &); sleep 73"
    with pytest.raises(RopewalkError) as caught:
        await box.exec("sh", "-c", script, timeout=0.4)
    assert caught.value.kind is Kind.TIMEOUT
    assert [running(place, seconds) for seconds in ("71", "72", "73")] == [[], [], []]
    assert running(place, "100") == [box.task.pid]
    assert (await box.exec("echo", "alive")).stdout == b"alive\n"


async def test_a_caller_that_leaves_ends_the_command(box: Box, place: Place) -> None:
    task = asyncio.ensure_future(box.exec("sleep", "74"))
    while not running(place, "74"):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(place, "74") == []


async def test_what_is_left_in_the_background_lives_on(box: Box, place: Place) -> None:
    await box.exec("sh", "-c", "sleep 75 &", timeout=5)
    async with asyncio.timeout(30):
        while len(running(place, "75")) != 1:  # between its fork and its exec it is still called sh
            await asyncio.sleep(0.01)


async def test_many_at_once(box: Box) -> None:
    results = await asyncio.gather(*(box.exec("echo", str(number)) for number in range(20)))
    assert [result.stdout for result in results] == [f"{number}\n".encode() for number in range(20)]


async def test_it_has_three_descriptors(box: Box) -> None:
    listing = "for fd in /proc/self/fd/*; do test -e $fd && echo ${fd##*/}; done"
    assert (await box.exec("sh", "-c", listing)).stdout == b"0\n1\n2\n"


async def test_it_has_no_terminal_and_no_input(box: Box) -> None:
    assert (await box.exec("cat")).stdout == b""
    assert (await box.exec("sh", "-c", "test -t 1")).code == 1
