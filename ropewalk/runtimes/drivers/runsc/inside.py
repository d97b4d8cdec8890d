"""Running a command inside a Sentry: collecting its output (ExecSync), or with its streams in the caller's hands.

`runsc exec` stays until the command exits, and gives its own streams to the Sentry, so nothing waits for the end of the
pipes. The processes are the Sentry's: what must be ended is found in `runsc ps`, by descent from the command, whose pid
there comes in --internal-pid-file. All of it is stopped first, so that nobody starts more meanwhile. Limit: a process
whose parent ended before belongs to the container's init then, and goes on until its container ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.linux import spawn
from ropewalk.runtimes.drivers import command, execution, interactive
from ropewalk.runtimes.drivers.runsc import sentry
from ropewalk.runtimes.handler import ExecResult

PID_FD = 5
VERB_SECONDS = 10.0
END_SECONDS = 10.0
ROUNDS = 5


async def run(
    runtime: command.Command, id: str, description: dict[str, Any], *, timeout: float, limit: int
) -> ExecResult:
    """`description`: the OCI process object. See Handler.exec."""
    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(execution.memory_file("inner-pid"))
        options = ["--internal-pid-file", f"/proc/self/fd/{PID_FD}"]
        log, child, outputs = execution.start(runtime, id, description, limit, stack, options, {PID_FD: inner})

        async def ended() -> None:
            await end(runtime, id, int(os.pread(inner, 32, 0) or b"0"), child)

        async with execution.within(timeout, id, description, ended):
            code = await child.wait()
        return execution.collected(id, code, log, outputs, limit)


async def start(
    runtime: command.Command, id: str, description: dict[str, Any], *, pid_file: str, inner_file: str, console: str
) -> interactive.Interactive:
    """See interactive.start and Handler.exec_stream. `inner_file`: one more path that this call makes and removes."""
    options = ("--internal-pid-file", inner_file)
    try:
        made = await interactive.start(runtime, id, description, pid_file=pid_file, console=console, options=options)
        made.end = functools.partial(end, runtime, id, _read_pid(inner_file))
        return made
    except BaseException:  # it may have begun all the same, and nobody has it
        with contextlib.suppress(FileNotFoundError, ValueError):
            await asyncio.shield(asyncio.ensure_future(_abandon(runtime, id, _read_pid(inner_file))))
        raise
    finally:
        execution.forget(inner_file)


async def _abandon(runtime: command.Command, id: str, root: int) -> None:
    with contextlib.suppress(TimeoutError, RopewalkError):  # the container may have ended meanwhile
        async with asyncio.timeout(END_SECONDS):
            await kill_tree(runtime, id, root)


def _read_pid(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


async def end(runtime: command.Command, id: str, root: int, child: spawn.Process) -> None:
    """Kill the command, the Sentry's `root`, with all that descends from it; then runsc, which has nothing to wait for
    any more. 0: it was never started."""
    try:
        with contextlib.suppress(TimeoutError, RopewalkError):  # the container may have ended meanwhile
            async with asyncio.timeout(END_SECONDS):
                await kill_tree(runtime, id, root)
                await child.wait()
    finally:
        child.kill()
        await child.wait()


async def kill_tree(runtime: command.Command, id: str, root: int) -> None:
    stopped: list[int] = []
    for _ in range(ROUNDS):
        table = await runtime.ask(id, "ps", id, timeout=VERB_SECONDS)
        found = [one for one in sentry.descendants(sentry.parse_table(table), root) if one not in stopped]
        if not found:
            break
        await _send(runtime, id, found, "STOP")
        stopped += found
    await _send(runtime, id, stopped[::-1], "KILL")


async def _send(runtime: command.Command, id: str, pids: list[int], signal: str) -> None:
    for pid in pids:
        with contextlib.suppress(RopewalkError):  # it has ended
            await runtime.run(id, "kill", "--pid", str(pid), id, signal, timeout=VERB_SECONDS)
