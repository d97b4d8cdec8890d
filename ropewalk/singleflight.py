"""One attempt per key: later callers join it and get its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ropewalk.errors import Kind, RopewalkError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Flights(Generic[T]):
    """The attempts under way. `abandon=True`: an attempt whose last caller left is cancelled (PullImage);
    otherwise it goes on, and a repeat of the call finds its result (RunPodSandbox)."""

    def __init__(self, *, abandon: bool) -> None:
        self._abandon = abandon
        self._flights: dict[str, asyncio.Task[T]] = {}
        self._callers: dict[str, int] = {}
        self._wanted: dict[str, object] = {}

    async def join(self, key: str, start: Callable[[], Awaitable[T]], *, wanted: object = None) -> T:
        """The result of the attempt under way for `key`, or of a new one, which then is for what is `wanted`."""
        flight = self._flights.get(key)
        if flight is None or flight.done():
            flight = asyncio.ensure_future(self._fly(start))
            self._flights[key] = flight
            self._callers[key] = 0
            self._wanted[key] = wanted
            flight.add_done_callback(lambda done: self._landed(key, done))
        self._callers[key] += 1
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if flight.cancelled() and (caller is None or not caller.cancelling()):
                raise RopewalkError(f"{key} was overtaken by a later call", kind=Kind.CANCELLED) from None
            raise
        finally:
            if self._flights.get(key) is flight:
                self._callers[key] -= 1
                if self._abandon and self._callers[key] == 0 and not flight.done():
                    flight.cancel()
                    self._forget(key)  # the next caller starts anew, not into the wreck

    @staticmethod
    async def _fly(start: Callable[[], Awaitable[T]]) -> T:
        return await start()

    def _landed(self, key: str, flight: asyncio.Task[T]) -> None:
        error = None if flight.cancelled() else flight.exception()  # read once, even if every caller has left
        if self._flights.get(key) is not flight:
            return
        if error is not None and not self._callers[key]:
            unexpected = None if isinstance(error, RopewalkError) else error
            told = {"what": key, "error": str(error)}
            log.warning("it failed after who asked for it had left", extra=told, exc_info=unexpected)
        self._forget(key)

    def _forget(self, key: str) -> None:
        del self._flights[key], self._callers[key], self._wanted[key]

    def under_way(self, key: str) -> bool:
        return key in self._flights

    async def overtake(self, key: str, *, wanted: object) -> None:
        """Cancel what is under way for anything but what is `wanted`, and wait until it has undone itself: then nothing
        is, or what somebody else began meanwhile for the same."""
        while (flight := self._flights.get(key)) is not None and not flight.done() and self._wanted[key] != wanted:
            flight.cancel()
            await asyncio.wait([flight])
