"""A daemon that is told to end while it probes its runtimes leaves none of the probes' containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time

import pytest

from ropewalk.linux import process
from tools import node as nodes


def probes(node: nodes.Node) -> set[int]:
    """Processes of containers whose bundles lie in this node."""
    ids = os.listdir(node.state / "containers") if (node.state / "containers").is_dir() else []
    found = set()
    for id in ids:
        with contextlib.suppress(OSError, ValueError):
            found.add(int((node.state / "containers" / id / "pid").read_text()))
    return {pid for pid in found if lives(pid)}


def lives(pid: int) -> bool:
    """What has ended and waits for somebody to read its status does not."""
    seen = process.stat(pid)
    return seen is not None and seen.state not in "ZX"


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_nothing_stays(node: nodes.Node, delay: float) -> None:
    node.stop()
    shutil.rmtree(node.state / "probes")  # as if nothing were known of an earlier daemon's
    made: set[int] = set()

    async def start() -> None:
        starting = asyncio.ensure_future(node.start())
        async with asyncio.timeout(30):
            while not made:
                made.update(probes(node))
                await asyncio.sleep(0)
        time.sleep(delay)
        made.update(probes(node))
        node.stop()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)

    asyncio.run(start())
    assert made
    assert not {pid for pid in made if lives(pid)}
    assert os.listdir(node.state / "containers") == []
    asyncio.run(node.start())
