"""Orphans of our children are reaped by us; our children keep their exit codes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, os
from ropewalk.linux import orphans, process, spawn

async def main():
    orphans.Orphans()
    parents = [spawn.spawn(["sh", "-c", "sleep 0.05 & exit 7"]) for _ in range(3)]
    assert [await parent.wait() for parent in parents] == [7, 7, 7]
    async with asyncio.timeout(10):
        while process.children(os.getpid()):
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_orphans_are_reaped_and_children_keep_their_codes() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=30)
