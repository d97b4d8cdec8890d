"""The streams of a command in a shim's container, and the order in which the shim answers."""

from __future__ import annotations

import asyncio
import os
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


class Deaf(Command):
    async def end(self) -> None:
        pass


@pytest.fixture
def paths(tmp_path: Path) -> stdio.Paths:
    stdin = tmp_path / "stdin"
    os.mkfifo(stdin)
    return stdio.Paths(stdin=str(stdin))


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
