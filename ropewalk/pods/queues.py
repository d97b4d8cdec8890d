"""One queue per pod for what changes it; Stop and Remove overtake what is still being made.

Waiting for a process to end (StopContainer's grace, an exec) is not a change and holds no turn.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator

from ropewalk.errors import Kind, RopewalkError

ADOPTION_DEADLINE = 30.0  # seconds a call waits for its pod to be adopted after a restart


class Queues:
    """Turns by pod id."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}  # as long as somebody has a turn, or waits for one
        self._users: collections.Counter[str] = collections.Counter()
        self._making: dict[str, set[asyncio.Task[object]]] = {}
        self._closing: dict[str, int] = {}
        self._adoptions: dict[str, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def turn(self, pod_id: str) -> AsyncIterator[None]:
        """One change; waits for those before it."""
        await self.adopted(pod_id)
        self._users[pod_id] += 1
        try:
            async with self._locks.setdefault(pod_id, asyncio.Lock()):
                yield
        finally:
            self._users[pod_id] -= 1
            if not self._users[pod_id]:
                del self._users[pod_id], self._locks[pod_id]

    @contextlib.asynccontextmanager
    async def making(self, pod_id: str) -> AsyncIterator[None]:
        """A turn that makes something, and that a Stop or Remove cancels. Refused while one of them waits."""
        if self._closing.get(pod_id):
            raise RopewalkError(f"pod sandbox {pod_id!r} is being stopped", kind=Kind.STATE)
        task = asyncio.current_task()
        assert task is not None
        tasks = self._making.setdefault(pod_id, set())
        tasks.add(task)
        try:
            async with self.turn(pod_id):
                yield
        finally:
            tasks.discard(task)
            if not tasks:
                self._making.pop(pod_id, None)

    @contextlib.asynccontextmanager
    async def overtake(self, pod_id: str) -> AsyncIterator[None]:
        """Cancel what is being made in this pod, wait for its undo, then take the turn."""
        self._closing[pod_id] = self._closing.get(pod_id, 0) + 1
        try:
            tasks = list(self._making.get(pod_id, ()))
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            async with self.turn(pod_id):
                yield
        finally:
            self._closing[pod_id] -= 1
            if not self._closing[pod_id]:
                del self._closing[pod_id]

    def begin_adoption(self, pod_id: str) -> None:
        """Calls on this pod wait until `end_adoption`."""
        self._adoptions[pod_id] = asyncio.Event()

    def end_adoption(self, pod_id: str) -> None:
        event = self._adoptions.pop(pod_id, None)
        if event is not None:
            event.set()

    async def adopted(self, pod_id: str) -> None:
        event = self._adoptions.get(pod_id)
        if event is None:
            return
        try:
            async with asyncio.timeout(ADOPTION_DEADLINE):
                await event.wait()
        except TimeoutError:
            raise RopewalkError(
                f"pod sandbox {pod_id!r} is still being adopted after the daemon's restart",
                hint="try again; the log names what it waits for",
                kind=Kind.UNAVAILABLE,
            ) from None
