"""The daemon's ends of a shim's fifos."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ropewalk.runtimes.drivers.shim import stdio


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = str(tmp_path / "stdin")
    os.mkfifo(path)
    return path


async def test_nothing_is_written_before_the_shim_reads(fifo: str) -> None:
    """containerd's opens its end in the background, and may have answered before."""
    ours = stdio.Input(fifo)
    ours.attached()
    writing = asyncio.ensure_future(ours.write(b"all of it"))
    await asyncio.sleep(0)
    assert not writing.done()
    theirs = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    await writing
    ours.close()
    assert (os.read(theirs, 100), os.read(theirs, 100)) == (b"all of it", b"")
    os.close(theirs)


async def test_a_shim_that_never_reads_is_not_waited_for_for_ever(fifo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "READY_SECONDS", 0.01)
    ours = stdio.Input(fifo)
    ours.attached()
    await ours.write(b"dropped")
    ours.close()
