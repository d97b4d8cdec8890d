"""A command with a terminal, as a runtime starts it for us: here a script that does it badly."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import orphans, process
from ropewalk.runtimes.drivers import command, interactive

RUNTIME = """#!/bin/sh
while test "$1" != --pid-file; do shift; done
sleep 100 &
echo $! > "$2"
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


async def test_one_that_sends_no_terminal_leaves_nothing(tmp_path: Path, reaper: None) -> None:
    program = tmp_path / "runtime"
    program.write_text(RUNTIME)
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
