"""How a shim's container ends, and what the next daemon finds of one.

`Wait` tells the end, and can be asked again by a daemon that was away. A shim that does not answer is not the last
word: the kernel tells whether the process is there, and what a dead shim has left is ended (drivers/shim/removal.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from ropewalk.errors import NotFound, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes.drivers.shim import inside, record, stdio, task
from ropewalk.runtimes.handler import Exit, Observation, Task
from ropewalk.wire.pb import shim_pb2 as pb

if TYPE_CHECKING:
    from ropewalk.runtimes.drivers.shim.driver import Driver

KILLED = 128 + signal.SIGKILL
FLUSH_SECONDS = 1.0
OBSERVE_SECONDS = 10.0
EVENT_SECONDS = 0.3  # for the event of an end that came by Wait
DEAF_SECONDS = 10.0  # a shim has this long to tell an end that the kernel has told already
RECONNECTS = 3

log = logging.getLogger(__name__)


class Exits:
    """Of one driver's containers."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def wait(self, id: str, task_: Task, cgroup: str) -> Exit:
        """Written down before it is told: the shim forgets the container then."""
        own = self._driver.bundle(id)
        seen = own.read_ended()
        if seen is None:
            seen = await self._await(id, task_, cgroup, own)
            await stdio.flush(own, FLUSH_SECONDS)
            own.write_ended(seen)
            self._driver.background.add(self._driver.removal.forget_task(id))
        return seen

    async def _await(self, id: str, task_: Task, cgroup: str, own: record.Bundle) -> Exit:
        self._driver.events.follow(id)
        for attempt in range(RECONNECTS):
            try:
                shim = await self._driver.reach(own, id)
                answer = await self._ended(shim, id, task_)
                at = task.at_nanoseconds(answer.exited_at) or time.time_ns()
                return Exit(code=answer.exit_status, at=at, oom=await self._is_oom(id, cgroup, answer.exit_status))
            except NotFound:
                break
            except (task.Gone, TimeoutError) as error:
                log.warning("lost the shim", extra={"id": id, "attempt": attempt, "error": str(error)})
                served = own.read_served()
                if served is None or not process.is_alive(served.shim.pid, served.shim.start):
                    break
        return await self._driver.removal.bury(id, task_, cgroup)

    async def _ended(self, shim: task.Shim, id: str, task_: Task) -> pb.WaitResponse:
        """What Wait says. TimeoutError if the process is known to have ended and the shim does not tell it."""
        waiting = asyncio.ensure_future(shim.wait(id))
        pidfd = process.open_pidfd(task_.pid, task_.pid_start) if self._driver.direct else None
        dying = asyncio.ensure_future(process.wait_pidfd(pidfd)) if pidfd is not None else None
        try:
            await asyncio.wait([one for one in (waiting, dying) if one], return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(None if self._driver.direct is False else DEAF_SECONDS):
                return await waiting
        finally:
            for one in (waiting, dying):
                if one is not None:
                    one.cancel()
            await asyncio.gather(*(one for one in (waiting, dying) if one), return_exceptions=True)
            if pidfd is not None:
                os.close(pidfd)

    async def _is_oom(self, id: str, cgroup: str, code: int) -> bool:
        if not code:
            return False
        kills = self._driver.cgroups.oom_kills(cgroup) if self._driver.direct and cgroup else None
        if kills is not None:  # systemd removes a scope's cgroup as soon as nothing lives in it
            return kills > 0
        if code == KILLED:
            await self._driver.events.ended(id, EVENT_SECONDS)  # the event of exhausted memory comes before this one
        return self._driver.events.is_oom(id)

    async def observe(self, id: str, task_: Task) -> Observation:
        own = self._driver.bundle(id)
        ended = own.read_ended()
        if ended is not None:
            return Observation(alive=False, exit=ended, started=True)
        try:
            async with asyncio.timeout(OBSERVE_SECONDS):
                return await self._observe(id, task_, own)
        except (TimeoutError, RopewalkError) as error:  # a shim that hangs: the kernel tells whether there is anything
            log.warning("a shim does not say how its container is", extra={"id": id, "error": str(error)})
            return Observation(alive=process.is_alive(task_.pid, task_.pid_start), started=True)

    async def _observe(self, id: str, task_: Task, own: record.Bundle) -> Observation:
        try:
            shim = await self._driver.reach(own, id)
            self._driver.loggers.ensure(id, own)
            state = await shim.state(id)
            if state.status != pb.CREATED:
                self._driver.loggers.release(id)
            await inside.end_leftovers(shim, own, id)
        except NotFound:
            return Observation(alive=False)
        except task.Gone:
            seen = await self._driver.removal.bury(id, task_, own.read_record().cgroup)
            own.write_ended(seen)
            return Observation(alive=False, exit=seen)
        self._driver.events.follow(id)  # of a container that has ended, `wait` tells how, with all that belongs to it
        return Observation(alive=True, started=state.status != pb.CREATED)
