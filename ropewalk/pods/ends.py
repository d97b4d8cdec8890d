"""Learning that a process has ended, whatever is in the way of it.

What this daemon lacks for a while, files above all (EMFILE, ENFILE), or a mistake in a handler says nothing about a
container, and what is told as its end kills it: it is asked again until there is an answer, or evidence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.pods import phases
from ropewalk.pods.records import Container
from ropewalk.runtimes.handler import Exit, Handler, Task

PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts; the last one for as long as it takes

log = logging.getLogger(__name__)


async def of_container(handler: Handler, container: Container, now: Callable[[], int] = time.time_ns) -> Exit:
    """How it ended. Lost only if its process is gone, and then its handler says that it cannot tell, or fails in
    another way for as long as PAUSES are."""
    task = container.task
    assert task is not None
    failures = 0
    while True:
        try:
            return await handler.wait(container.id, task, container.cgroup)
        except Exception as error:  # also what a handler of another package raises
            said = isinstance(error, RopewalkError) or failures >= len(PAUSES)
            if said and _is_gone(task):
                log.warning(
                    "nobody saw how the container ended", extra={"container": container.id, "error": str(error)}
                )
                return phases.lost(now(), f"nobody saw it end: {error}")
            await _pause(failures, container.id, error)
            failures += 1


async def of_process(id: str, task: Task) -> None:
    """Return when it has ended; `id`: of the pod whose own it is."""
    failures = 0
    while True:
        try:
            return await process.ended(task.pid, task.pid_start)
        except OSError as error:
            await _pause(failures, id, error)
            failures += 1


async def _pause(failures: int, id: str, error: Exception) -> None:
    pause = PAUSES[min(failures, len(PAUSES) - 1)]
    log.warning("cannot wait for its end, trying again", extra={"id": id, "error": repr(error), "seconds": pause})
    await asyncio.sleep(pause)


def _is_gone(task: Task) -> bool:
    """False also where the kernel cannot be asked."""
    try:
        return not process.is_alive(task.pid, task.pid_start)
    except OSError:
        return False
