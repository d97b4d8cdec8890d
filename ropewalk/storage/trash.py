"""Trash: what is forgotten at once, and whose bytes are freed in the background.

A rename into a directory on the same file system is quick and atomic; removing what was renamed may take minutes.
The trash survives a kill: what is in it when the daemon starts is removed then.
"""

from __future__ import annotations

import asyncio
import logging
import os

from ropewalk.errors import RopewalkError
from ropewalk.linux import offload, paths
from ropewalk.storage import trees

log = logging.getLogger(__name__)

# What a container that wrote a few files leaves is removed in the event loop, in ~0.1 ms: a worker costs more.
SMALL_ENTRIES = 32
SMALL_BYTES = 1 << 20
DEADLINE = 3600.0  # seconds; a tree that takes longer is gone on with
RETRY = 60.0  # seconds after a failure


class Trash:
    """One directory whose entries are being removed."""

    def __init__(self, directory: str, offload: offload.Offload) -> None:
        self._directory = directory
        self._offload = offload
        self._emptying: asyncio.Task[None] | None = None
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def throw(self, path: str) -> None:
        """Forget: out of sight when this returns, its bytes are freed in the background. Needs a running loop."""
        self.hide(path)
        self.start()

    def hide(self, path: str) -> None:
        """Out of sight, and freed after `start`. Absent is fine.

        Never fails, because Remove must not: what cannot be renamed is logged, and found by the next start."""
        try:
            os.rename(path, f"{self._directory}/{os.path.basename(path)}-{os.urandom(4).hex()}")
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("cannot move to the trash", extra={"path": path, "error": str(error)})

    def start(self) -> None:
        """Remove what is there, in the background."""
        if self._emptying is None or self._emptying.done():
            self._emptying = asyncio.get_running_loop().create_task(self._empty())

    async def emptied(self) -> None:
        """Wait until nothing is left."""
        while self._emptying is not None and not self._emptying.done():
            await asyncio.shield(self._emptying)

    async def close(self) -> None:
        """Stop; the rest is removed by the next daemon."""
        if self._emptying is not None:
            self._emptying.cancel()
            await asyncio.gather(self._emptying, return_exceptions=True)

    async def _empty(self) -> None:
        while names := os.listdir(self._directory):
            failed = [name for name in names if not await self._removed(f"{self._directory}/{name}")]
            if failed:
                await asyncio.sleep(RETRY)

    async def _removed(self, path: str) -> bool:
        try:
            if trees.is_small(path, entries=SMALL_ENTRIES, size=SMALL_BYTES):
                paths.remove_tree(path)
                await asyncio.sleep(0)  # others' turn
            else:
                await self._offload.call(paths.remove_tree, path, timeout=DEADLINE)
        except (OSError, RopewalkError) as error:
            log.warning("cannot remove, will try again", extra={"path": path, "error": str(error)})
            return False
        return True
