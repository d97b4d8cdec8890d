"""Orphans of our children are reaped by us; our children keep their exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ADOPTS = """
import asyncio, sys
from ropewalk.linux import orphans, process, spawn

async def main(late):
    orphans.Orphans()
    with spawn.expecting_orphan():
        parent = spawn.spawn(["sh", "-c", "(sleep 0.1; exit 5) & echo $! > " + sys.argv[1]])
        assert await parent.wait() == 0
        if late:
            await asyncio.sleep(0.3)  # it has been reaped by now
        assert await spawn.adopt(int(open(sys.argv[1]).read()), ["sh"]).wait() == 5
    assert not spawn.orphans

asyncio.run(main(False))
asyncio.run(main(True))
"""

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


def test_an_orphan_can_be_adopted_with_its_code(tmp_path: Path) -> None:
    """Even after it ended and was reaped."""
    subprocess.run([sys.executable, "-c", ADOPTS, str(tmp_path / "pid")], check=True, timeout=30)
