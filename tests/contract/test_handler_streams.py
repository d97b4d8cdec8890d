"""The Handler contract: streams in the caller's hands, of a command inside and of the container's own init."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes import streams
from ropewalk.runtimes.handler import Handler
from ropewalk.runtimes.streams import STDERR, STDOUT
from tests.fakes.boxes import Box, Place, create, run

pytestmark = pytest.mark.timeout(120)

Opener = Callable[..., Awaitable[streams.Streams]]


@pytest.fixture
async def box(handler: Handler, place: Place) -> AsyncIterator[Box]:
    box = await run(handler, place.plan("sleep", "100"))
    yield box
    await box.delete()


@pytest.fixture
async def opened(box: Box) -> AsyncIterator[Opener]:
    """`await opened("sh", "-c", …, tty=False)`: streams that are closed after the test."""
    made: list[streams.Streams] = []

    async def open(*args: str, tty: bool = False) -> streams.Streams:
        description: dict[str, Any] = {"user": {"uid": 0, "gid": 0}, "args": list(args), "cwd": "/"}
        description["env"] = ["PATH=/bin", "TERM=xterm"]
        made.append(await box.handler.exec_stream(box.id, box.task, description, tty=tty))
        return made[-1]

    yield open
    for one in made:
        await one.close()
        await one.close()


async def everything(one: streams.Streams, until: bytes = b"") -> dict[int, bytes]:
    """What comes, up to the end of both or until `until` is in standard output."""
    seen = {STDOUT: b"", STDERR: b""}
    async with asyncio.timeout(30):
        while (chunk := await one.read()) is not None:
            seen[chunk.stream] += chunk.data
            if until and until in seen[STDOUT]:
                break
    return seen


async def test_a_command_has_three_streams_and_a_code(opened: Opener) -> None:
    one = await opened("sh", "-c", "cat; echo err >&2; exit 3")
    await one.write(b"one\n")
    await one.write(b"two\n")
    await one.close_stdin()
    await one.close_stdin()
    assert await everything(one) == {STDOUT: b"one\ntwo\n", STDERR: b"err\n"}
    assert await one.exit() == 3
    await one.write(b"dropped")


async def test_a_command_with_a_terminal(opened: Opener) -> None:
    one = await opened("sh", "-c", "test -t 0 && test -t 1 && read x && stty size && echo got $x; exit 4", tty=True)
    await one.resize(132, 40)
    await one.write(b"word\n")
    seen = await everything(one)
    assert b"40 132\r\ngot word\r\n" in seen[STDOUT]
    assert seen[STDERR] == b""
    assert await one.exit() == 4


async def test_more_than_any_buffer_goes_both_ways(opened: Opener) -> None:
    one = await opened("cat")
    sent = b"x" * (4 << 20)

    async def feed() -> None:
        await one.write(sent)
        await one.close_stdin()

    feeding = asyncio.ensure_future(feed())
    assert (await everything(one))[STDOUT] == sent
    await feeding
    assert await one.exit() == 0


async def test_a_signals_code(opened: Opener) -> None:
    assert await (await opened("sh", "-c", "kill -TERM $$; sleep 9")).exit() == 143


async def test_what_is_left_in_the_background_is_not_waited_for(opened: Opener) -> None:
    one = await opened("sh", "-c", "sleep 77 & echo done")
    assert (await everything(one))[STDOUT] == b"done\n"
    assert await one.exit() == 0


async def test_closing_ends_the_command_and_what_it_started(box: Box, place: Place, opened: Opener) -> None:
    if box.handler.capabilities.own_kernel:
        pytest.skip("its processes are not the node's")
    one = await opened("sh", "-c", "setsid sleep 78 & echo on; sleep 79")
    await everything(one, b"on\n")
    await one.close()
    inside = set(place.cgroups.processes(place.cgroup))
    assert not {pid for text in (b"78", b"79") for pid in process.find(text)} & inside
    assert (await box.exec("echo", "alive")).stdout == b"alive\n"


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_that_is_not_there_is_the_callers_error(opened: Opener, tty: bool) -> None:
    with pytest.raises(RopewalkError, match="no-such-program") as caught:
        await opened("no-such-program", tty=tty)
    assert caught.value.kind is Kind.INVALID


# Attach


async def test_attached_from_the_start_everything_is_seen(handler: Handler, place: Place) -> None:
    box = await create(handler, place.plan("sh", "-c", "read x; echo got $x; echo err >&2; exit 5", stdin=True))
    one = await handler.attach(box.id, box.task)
    await box.start()
    await one.write(b"word\n")
    assert await everything(one) == {STDOUT: b"got word\n", STDERR: b"err\n"}
    assert await one.exit() == 5
    await one.close()
    assert sorted(box.log()) == [("stderr", "F", "err"), ("stdout", "F", "got word")]


@pytest.mark.parametrize("tty", [False, True])
async def test_attached_without_a_log(handler: Handler, place: Place, tty: bool) -> None:
    box = await create(handler, place.plan("sh", "-c", "read x; echo got $x", tty=tty, stdin=True, log=False))
    one = await handler.attach(box.id, box.task)
    await box.start()
    await one.write(b"word\n")
    assert b"got word" in (await everything(one))[STDOUT]
    assert await one.exit() == 0
    await one.close()


async def test_an_input_that_ends_with_its_first_attacher(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("cat", stdin=True, stdin_once=True))
    one = await handler.attach(box.id, box.task)
    await one.write(b"word\n")
    assert (await everything(one, b"word\n"))[STDOUT] == b"word\n"
    await one.close()
    assert (await box.wait()).code == 0


async def test_an_attachers_leave_is_no_end(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "read x; echo $x; read y; echo $y", stdin=True))
    for word in (b"one", b"two"):
        one = await handler.attach(box.id, box.task)
        await one.write(word + b"\n")
        assert word + b"\n" in (await everything(one, word))[STDOUT]
        await one.close()
    assert (await box.wait()).code == 0
    assert [text for _, _, text in box.log()] == ["one", "two"]


async def test_a_terminal_is_attached_and_resized(handler: Handler, place: Place) -> None:
    script = "read x; while test \"$(stty size)\" != '33 99'; do sleep 0.05; done; stty size"
    box = await run(handler, place.plan("sh", "-c", script, tty=True, stdin=True))
    one = await handler.attach(box.id, box.task)
    await one.resize(99, 33)
    await one.write(b"\n")
    assert b"33 99" in (await everything(one, b"99"))[STDOUT]
    await one.close()
    assert (await box.wait()).code == 0
