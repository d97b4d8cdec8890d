"""Who is believed about the end of a shim's container."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from ropewalk.linux import process
from ropewalk.runtimes.drivers.shim import exits
from ropewalk.runtimes.handler import Task
from ropewalk.wire.pb import shim_pb2 as pb

if TYPE_CHECKING:
    from ropewalk.runtimes.drivers.shim.driver import Driver

ROUNDS = 5  # of the event loop


async def test_a_kernel_that_cannot_be_asked_has_not_said_that_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor to spare: then only the shim tells, however long that takes."""
    asked = asyncio.Event()

    async def ended(pid: int, start: int) -> None:
        asked.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process, "ended", ended)
    asking: asyncio.Future[pb.WaitResponse] = asyncio.get_running_loop().create_future()
    first = asyncio.ensure_future(exits.Exits(cast("Driver", cast(Any, None)))._first(asking, Task(1, 2)))
    await asked.wait()
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    assert not first.done()
    asking.set_result(pb.WaitResponse())
    await first
