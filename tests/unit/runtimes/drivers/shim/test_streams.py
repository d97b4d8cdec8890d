"""The streams of a command in a shim's container, and the order in which the shim answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes.drivers.shim import inside, stdio, streams


class Command:
    """Of a shim that answers the later of two Waits first, and the earlier one when `told` says how it ended."""

    exec_id = "exec-1"

    def __init__(self) -> None:
        self.told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        pass

    async def wait(self) -> int:
        return await self.told

    async def end(self) -> None:
        asyncio.get_running_loop().call_soon(self.told.set_result, 137)

    async def forget(self) -> None:
        pass

    def is_held(self) -> bool:
        return False


class Deaf(Command):
    async def end(self) -> None:
        pass


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[stdio.Paths]:
    stdin = tmp_path / "stdin"
    os.mkfifo(stdin)
    theirs = os.open(stdin, os.O_RDONLY | os.O_NONBLOCK)  # the shim's end
    yield stdio.Paths(stdin=str(stdin))
    os.close(theirs)


async def test_the_end_of_what_was_let_go_is_told(paths: stdio.Paths) -> None:
    opened = streams.ExecStreams(cast(inside.Command, Command()), paths)
    await opened.start()
    await opened.close()
    assert await opened.exit() == 137


async def test_one_that_never_tells_is_no_cancellation(paths: stdio.Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "END_SECONDS", 0)
    opened = streams.ExecStreams(cast(inside.Command, Deaf()), paths)
    await opened.start()
    await opened.close()
    with pytest.raises(RopewalkError, match="did not tell its end") as caught:
        await opened.exit()
    assert caught.value.kind is Kind.STATE


async def late(path: str) -> None:
    """A shim on a busy machine copies what the command wrote when it has ended long since."""
    fd = os.open(path, os.O_WRONLY)
    await asyncio.sleep(0.1)
    os.write(fd, b"late")
    os.close(fd)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(inside, "SILENCE", 0.01)
    os.mkfifo(tmp_path / "stdout")
    return str(tmp_path / "stdout")


async def test_what_is_copied_late_is_read(paths: stdio.Paths, output: str) -> None:
    command = Command()
    opened = streams.ExecStreams(cast(inside.Command, command), stdio.Paths(paths.stdin, output))
    await opened.start()
    copying = asyncio.ensure_future(late(output))
    command.told.set_result(0)
    chunk = await opened.read()
    assert chunk is not None
    assert chunk.data == b"late"
    assert await opened.read() is None
    await copying
    await opened.close()


async def test_what_is_copied_late_is_collected(output: str) -> None:
    collected = inside.Collected(100)
    one = stdio.Output(output, collected.out)
    copying = asyncio.ensure_future(late(output))
    await inside.settle(cast(inside.Command, Command()), [one])
    assert collected.stdout == b"late"
    await copying


async def test_what_the_background_holds_is_not_waited_for(output: str) -> None:
    held = Command()
    held.is_held = lambda: True  # type: ignore[method-assign]
    one = stdio.Output(output, lambda data: None)
    async with asyncio.timeout(5):
        await inside.settle(cast(inside.Command, held), [one])
    one.close()


async def test_a_stream_that_has_ended_does_not_keep_its_reader_awake(paths: stdio.Paths, output: str) -> None:
    """As standard error with a terminal."""
    command, rounds = Command(), 0
    opened = streams.ExecStreams(cast(inside.Command, command), stdio.Paths(paths.stdin, output))
    wait = opened._next

    async def count() -> None:
        nonlocal rounds
        rounds += 1
        await wait()

    opened._next = count  # type: ignore[method-assign]
    await opened.start()
    copying = asyncio.ensure_future(late(output))
    assert await opened.read() is not None
    assert rounds <= 2
    await copying
    await opened.close()
