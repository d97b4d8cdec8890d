"""Operations as named steps, each with its undo.

An operation is a tuple of steps that reads as its story. `advance` walks it; when a step fails, or the
walk is cancelled, `retreat` undoes every step, last first: also those not reached, because a step may
have failed half-way and every undo is idempotent and finds its work from the id alone. Failure, Remove
and recovery after a kill therefore run the same code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """`do(owner, id)` makes; `undo(owner, id)` removes whatever is there."""

    name: str
    do: Callable[[Any, str], Awaitable[None]]
    undo: Callable[[Any, str], Awaitable[None]]


def checkpoint(name: str) -> None:
    """A place where the daemon may die: "<step>:before", "<step>:after", "undo <step>:…". Tests put a kill here."""


async def advance(owner: Any, steps: Sequence[Step], id: str) -> None:
    """Do every step in order. On failure or cancellation: retreat, then raise what happened; what stays is a note."""
    for step in steps:
        try:
            checkpoint(f"{step.name}:before")
            await step.do(owner, id)
            checkpoint(f"{step.name}:after")
        except BaseException as error:
            for note in await _retreat_whole(owner, steps, id):
                error.add_note(note)
            raise


async def _retreat_whole(owner: Any, steps: Sequence[Step], id: str) -> list[str]:
    """`retreat` to its end, however often the caller is cancelled meanwhile (by Stop, by Remove, by both): whoever gets
    no note takes the operation for undone, and its row away."""
    undo = asyncio.ensure_future(retreat(owner, steps, id))
    while not undo.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([undo])
    return ["the undo was cut off"] if undo.cancelled() else undo.result()


async def retreat(owner: Any, steps: Sequence[Step], id: str) -> list[str]:
    """Undo every step, last first, each even if another fails. Returns what could not be undone."""
    left: list[str] = []
    for step in reversed(steps):
        try:
            checkpoint(f"undo {step.name}:before")
            await step.undo(owner, id)
            checkpoint(f"undo {step.name}:after")
        except Exception as error:
            left.append(f"undo of {step.name} failed: {error}")
            log.warning("undo failed", extra={"id": id, "step": step.name, "error": str(error)})
    return left
