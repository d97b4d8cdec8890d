"""Commands inside a shim's container: Exec, Start, Wait, Delete, and fifos for the streams.

A command is ended by the shim, and so is only what it started itself. Where the container's processes are this
kernel's, all that a command started carries a mark by which it is found (drivers/execution.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Coroutine
from typing import Any

from msgspec import Struct

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers import execution
from ropewalk.runtimes.drivers.shim import options, record, stdio, task
from ropewalk.runtimes.handler import ExecResult
from ropewalk.wire.pb import shim_pb2 as pb

SILENCE = 0.2  # seconds after the exit for streams that somebody else holds open
COPY_SECONDS = 10.0  # for a shim to copy the rest of streams that nobody holds
END_SECONDS = 10.0
DELETE_SECONDS = 5.0


class Inside(Struct, frozen=True):
    """The container: its shim, bundle and id; `path`: its cgroup if its processes are this kernel's, else ""."""

    shim: task.Shim
    own: record.Bundle
    id: str
    path: str


class Command:
    """One exec: from Exec to Delete, whoever holds its streams."""

    def __init__(self, inside: Inside, description: dict[str, Any], cgroups: cgroup.Cgroups) -> None:
        self.inside = inside
        self.exec_id = f"exec-{secrets.token_hex(8)}"
        self._cgroups = cgroups
        self._mark = execution.new_mark()
        self._description = execution.marked(description, self._mark) if inside.path else description
        self.began = False

    async def begin(self, *, tty: bool, stdin: bool) -> stdio.Paths:
        """Have it made, not started. RopewalkError, Gone."""
        inside = self.inside
        paths = stdio.prepare(inside.own, tty=tty, stdin=stdin, prefix=f"{self.exec_id}.")
        request = pb.ExecProcessRequest(
            id=inside.id,
            exec_id=self.exec_id,
            terminal=tty,
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
            spec=options.build_process({**self._description, "terminal": tty}),
        )
        self.began = True
        await inside.shim.exec(request)
        return paths

    async def start(self) -> None:
        await self.inside.shim.start(self.inside.id, self.exec_id)

    async def wait(self) -> int:
        return task.read_end(await self.inside.shim.wait(self.inside.id, self.exec_id))[0]

    def is_held(self) -> bool:
        """Whether something that it started lives, and so may hold its streams: else their ends come, however late the
        shim copies what there was. Behind another kernel nobody knows."""
        path = self.inside.path
        return not path or any(execution.carries(pid, self._mark) for pid in self._cgroups.processes(path))

    async def end(self) -> None:
        """Kill it, and all that it started where that can be found. RopewalkError if something does not die."""
        with contextlib.suppress(RopewalkError, task.Gone, TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self.inside.shim.kill(self.inside.id, signal.SIGKILL, exec_id=self.exec_id)  # all: the container
        if self.inside.path:
            await execution.kill_marked(self._cgroups, self.inside.path, self._mark)
        with contextlib.suppress(RopewalkError, task.Gone, TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await self.wait()

    async def forget(self) -> None:
        """The shim's record of it, and its fifos."""
        with contextlib.suppress(RopewalkError, task.Gone, TimeoutError):
            async with asyncio.timeout(DELETE_SECONDS):
                await self.inside.shim.delete(self.inside.id, self.exec_id)
        self.inside.own.forget_exec(self.exec_id)


class Background:
    """Work that nobody waits for, but its owner at the end."""

    def __init__(self) -> None:
        self._work: set[asyncio.Task[None]] = set()

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def close(self) -> None:
        work = list(self._work)
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def run(
    inside: Inside,
    description: dict[str, Any],
    cgroups: cgroup.Cgroups,
    background: Background,
    *,
    timeout: float,
    limit: int,
) -> ExecResult:
    """See Handler.exec. Gone if the shim is."""
    command = Command(inside, description, cgroups)
    collected = Collected(limit)
    outputs: list[stdio.Output] = []
    try:
        paths = await command.begin(tty=False, stdin=False)
        outputs += [stdio.Output(paths.stdout, collected.out), stdio.Output(paths.stderr, collected.err)]
        code = await _finish(command, outputs, timeout)
    except BaseException:
        for output in outputs:
            output.close()
        if command.began:
            background.add(command.forget())
        raise
    ended = all(output.ended.is_set() for output in outputs)
    for output in outputs:
        output.drain()
    if ended:
        await command.forget()
    else:  # it waits for the streams, which something in the background holds
        background.add(command.forget())
    return ExecResult(code, bytes(collected.stdout), bytes(collected.stderr[: limit - len(collected.stdout)]))


async def _finish(command: Command, outputs: list[stdio.Output], timeout: float) -> int:
    """Start it and wait for its end; then for the streams' ends, which come at once if nobody else has them."""
    try:
        async with asyncio.timeout(timeout or None):
            await command.start()
            code = await command.wait()
    except RopewalkError as error:
        if error.kind is Kind.TIMEOUT:  # the shim is silent, and may start it all the same
            await asyncio.shield(asyncio.ensure_future(command.end()))
        raise
    except (TimeoutError, asyncio.CancelledError) as error:
        await asyncio.shield(asyncio.ensure_future(command.end()))
        if isinstance(error, asyncio.CancelledError):
            raise
        name = command._description["args"][0]
        text = f"container {ids.short(command.inside.id)}: command {name!r} did not end within {timeout:g} s"
        whom = "it and its children were" if command.inside.path else "it was"
        raise RopewalkError(text, hint=f"{whom} killed", kind=Kind.TIMEOUT) from None
    await settle(command, outputs)
    return code


async def settle(command: Command, outputs: list[stdio.Output]) -> None:
    """After the exit: until the streams' ends, or until it is clear that something in the background holds them."""
    began = asyncio.get_running_loop().time()
    while not all(output.ended.is_set() for output in outputs):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                for output in outputs:
                    await output.ended.wait()
                return
        if command.is_held() or asyncio.get_running_loop().time() - began > COPY_SECONDS:
            return


class Collected:
    """The first `limit` bytes of each stream; the rest is read and dropped, so that the command never stands still."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.stdout = bytearray()
        self.stderr = bytearray()

    def out(self, data: bytes) -> None:
        self.stdout += data[: self._limit - len(self.stdout)]

    def err(self, data: bytes) -> None:
        self.stderr += data[: self._limit - len(self.stderr)]


async def end_leftovers(shim: task.Shim, own: record.Bundle, id: str) -> None:
    """Commands of a daemon that was killed: nobody reads what they say, and they would stand still on it."""
    for exec_id in own.execs():
        with contextlib.suppress(RopewalkError, TimeoutError):
            async with asyncio.timeout(DELETE_SECONDS):
                await shim.kill(id, signal.SIGKILL, exec_id=exec_id)
                await shim.wait(id, exec_id)
                await shim.delete(id, exec_id)
        own.forget_exec(exec_id)
