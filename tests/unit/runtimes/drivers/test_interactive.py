"""A command with a terminal, as a runtime starts it for us: here a script that does it badly; and streams that are let
go while somebody waits for them."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import orphans, process
from ropewalk.runtimes import streams
from ropewalk.runtimes.drivers import command, interactive

RUNTIME = """#!/bin/sh
while test "$1" != --pid-file; do shift; done
sleep 100 &
echo $! > "$2"
"""


HOLDER = """#!{python}
import os, socket, sys, time
console = socket.socket(socket.AF_UNIX)
console.connect(sys.argv[sys.argv.index("--console-socket") + 1])
pid = os.fork()
if not pid:
    time.sleep(100)
with open(sys.argv[sys.argv.index("--pid-file") + 1], "w") as file:
    file.write(str(pid))
"""


@pytest.fixture
async def reaper() -> AsyncIterator[None]:
    """As in the daemon: what a child leaves behind is ours."""
    running = orphans.Orphans()
    yield
    running.close()


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.lexists(path):
            found[name] = os.readlink(path)
    return found


@pytest.mark.parametrize("script", [RUNTIME, HOLDER], ids=["silent", "holds-the-socket"])
@pytest.mark.timeout(30)
async def test_one_that_sends_no_terminal_leaves_nothing(tmp_path: Path, reaper: None, script: str) -> None:
    program = tmp_path / "runtime"
    program.write_text(script.replace("{python}", sys.executable))
    program.chmod(stat.S_IRWXU)
    runtime = command.Command(str(program), str(tmp_path / "root"))
    before, others = descriptors(), set(process.children(os.getpid()))
    with pytest.raises(RopewalkError, match="no terminal"):
        await interactive.start(
            runtime,
            "box",
            {"args": ["sleep", "100"], "terminal": True},
            pid_file=str(tmp_path / "pid"),
            console=str(tmp_path / "console"),
        )
    assert descriptors() == before
    assert set(process.children(os.getpid())) - others == set()
    assert sorted(os.listdir(tmp_path)) == ["runtime"]


async def test_who_waits_while_it_is_closed_leaves_nothing_to_the_event_loop() -> None:
    """The next pipes have the same numbers, and must be heard."""
    (reading, out), (theirs, stdin) = os.pipe(), os.pipe()
    for fd in (reading, stdin):
        os.set_blocking(fd, False)
    made = interactive.Interactive(stdin, {reading: streams.STDOUT}, tty=False)
    loop = asyncio.get_running_loop()
    writing = asyncio.ensure_future(made.write(b"x" * (1 << 20)))
    heard = asyncio.Event()
    loop.add_reader(reading, heard.set)  # as `read` does
    await asyncio.sleep(0)
    await made.close()
    writing.cancel()
    assert isinstance((await asyncio.gather(writing, return_exceptions=True))[0], asyncio.CancelledError)
    again, other = os.pipe()
    assert again in (reading, stdin)
    loop.add_reader(again, heard.set)
    os.write(other, b"x")
    await asyncio.wait_for(heard.wait(), 5)
    loop.remove_reader(again)
    for fd in (out, theirs, again, other):
        os.close(fd)
