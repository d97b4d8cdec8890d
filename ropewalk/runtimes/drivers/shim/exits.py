"""How a shim's container ends, and what the next daemon finds of one.

`Wait` tells the end, and can be asked again by a daemon that was away. A shim that does not answer is not the last
word: the kernel tells whether the process is there, and what a dead shim has left is ended (drivers/shim/removal.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

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
RETRY_SECONDS = 1.0  # between attempts to reach one that lives

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
        """The shim's word. A dead one is buried; one that hangs has other containers, and may yet speak: only where the
        kernel knows this container's process, and says that it has ended, is its word not waited for any longer."""
        self._driver.events.follow(id)
        asking = asyncio.ensure_future(self._ask(id, own))
        try:
            if self._driver.direct:
                await self._first(asking, task_)
            async with asyncio.timeout(DEAF_SECONDS if self._driver.direct else None):
                answer = await asking
        except (NotFound, task.Gone):
            return await self._driver.removal.bury(id, task_, cgroup)
        except TimeoutError:
            return await self._driver.removal.end_unheard(id, cgroup, DEAF_SECONDS)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        code, at = task.read_end(answer)
        return Exit(code=code, at=at, oom=await self._is_oom(id, cgroup, code))

    async def _ask(self, id: str, own: record.Bundle) -> pb.WaitResponse:
        """What Wait says, however often the connection must be made anew. Gone as soon as the shim is dead, NotFound if
        it does not know the container."""
        while True:
            try:
                return await (await self._driver.reach(own, id)).wait(id)
            except task.Gone as error:
                log.warning("lost the shim", extra={"id": id, "error": str(error)})
                served = own.read_served()
                if served is None or not self._driver.removal.is_alive(own):
                    raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await process.ended(served.shim.pid, served.shim.start)

    async def _first(self, asking: asyncio.Future[pb.WaitResponse], task_: Task) -> None:
        """Until the shim has answered, or the process has ended."""
        ending = asyncio.ensure_future(process.ended(task_.pid, task_.pid_start))
        try:
            both: list[asyncio.Future[Any]] = [asking, ending]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if ending.done() and ending.exception() is not None:  # no descriptor left: the kernel says nothing
                await asyncio.wait([asking])
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

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
        except (
            TimeoutError,
            task.Gone,
            RopewalkError,
        ) as error:  # it hangs: the kernel tells whether there is anything
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
            if self._driver.removal.is_alive(own):  # it may speak again
                raise
            seen = await self._driver.removal.bury(id, task_, own.read_record().cgroup)
            own.write_ended(seen)
            return Observation(alive=False, exit=seen)
        self._driver.events.follow(id)  # of a container that has ended, `wait` tells how, with all that belongs to it
        return Observation(alive=True, started=state.status != pb.CREATED)
