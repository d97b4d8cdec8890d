"""Many at a time, or one alone: CNI's GC must not run beside ADD or DEL (specification 1.1.0, section 2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Who wants to be alone waits until nobody is inside and holds nobody up meanwhile; only while it is inside do the
    others wait."""

    def __init__(self) -> None:
        self._inside = 0
        self._empty = asyncio.Event()
        self._open = asyncio.Event()
        self._empty.set()
        self._open.set()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        while self._inside or not self._open.is_set():
            await self._empty.wait()
            await self._open.wait()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()
