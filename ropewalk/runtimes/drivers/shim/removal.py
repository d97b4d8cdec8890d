"""Undoing, from an id alone: a shim's tasks, the shim itself, and what both leave when they die.

A shim that is reached deletes its task, and ends when it is asked to. Of one that is dead, the program's verb `delete`
removes what the runtime made. What runs on our behalf without being known, because its daemon was killed before it
could write it down, is found by its arguments: a `start` at work and the shim that it started by `-id` and our
`-address`, the runtime's creators by their name and the bundle's path.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import stat
import time
from typing import TYPE_CHECKING

from ropewalk import ids, steps
from ropewalk.errors import Kind, NotFound, RopewalkError
from ropewalk.linux import paths, process
from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.drivers.shim import binary, record, task
from ropewalk.runtimes.handler import Exit, Task
from ropewalk.singleflight import Flights

if TYPE_CHECKING:
    from ropewalk.runtimes.drivers.shim.driver import Driver

SOCKETS = "/run/containerd/s"  # where shims put their sockets since containerd 1.4, whoever starts them
CLEAN_TRIES = 2
END_SECONDS = 10.0
DELETE_SECONDS = 15.0
CREATE_SECONDS = 10.0
AGAIN = (0.1, 0.3, 0.6, 1.0, 2.0)  # seconds between Deletes of a task that has ended, which the shim does not see yet
SHUTDOWN_SECONDS = 3.0
MACHINE_SECONDS = 10.0  # the same for a shim that has a machine to stop before it ends
FLUSH_SECONDS = 1.0
STOP_SECONDS = 5

log = logging.getLogger(__name__)


class Removal:
    """Of one driver's containers and pods."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._deletes: Flights[bool] = Flights(abandon=False)
        self._burials: Flights[Exit] = Flights(abandon=False)

    # Tasks

    async def delete_task(self, id: str) -> bool:
        """End the task and have the shim forget it. False if the shim is dead, or refuses."""
        return await self._deletes.join(id, lambda: self._delete_task(id))

    async def forget_task(self, id: str) -> None:
        """Of a container that has ended: a pod's shim ends only without tasks."""
        await self.delete_task(id)

    async def _delete_task(self, id: str) -> bool:
        own = self._driver.bundle(id)
        if own.is_deleted():
            return True
        creating = self._driver.creating.pop(id, None)
        if creating is not None:
            await asyncio.wait([creating], timeout=CREATE_SECONDS)
        try:
            shim = await self._driver.reach(own, id)
            if own.read_ended() is None:
                await self._end_task(shim, id, own)
            with contextlib.suppress(NotFound):
                async with asyncio.timeout(DELETE_SECONDS):
                    await _delete_ended(shim, id)
            own.write_deleted()
        except task.Gone:
            return False
        except NotFound:  # of a sandbox, or never made
            return True
        except (TimeoutError, RopewalkError) as error:
            log.warning("the shim does not delete its task", extra={"id": id, "error": str(error)})
            return False
        return True

    async def _end_task(self, shim: task.Shim, id: str, own: record.Bundle) -> None:
        """SIGKILL, and until the shim has seen its end. A created, never started one is deleted as it is by some."""
        found = own.read_task()
        path = own.read_record().cgroup
        if self._driver.direct:
            if found is not None:
                end_process(found)
            if path:
                await self._driver.cgroups.kill(path)
        else:
            with contextlib.suppress(RopewalkError):
                await shim.kill(id, signal.SIGKILL, everything=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await shim.wait(id)

    # The dead

    async def bury(self, id: str, task_: Task, cgroup: str) -> Exit:
        """End what is left of a container whose shim is dead, or does not know it, and tell that as its end; several
        may ask."""
        return await self._burials.join(id, lambda: self._bury(id, task_, cgroup))

    async def _bury(self, id: str, task_: Task, cgroup: str) -> Exit:
        own = self._driver.bundle(id)
        served = own.read_served()
        pid = served.shim.pid if served is not None else 0
        if served is not None and not self.is_alive(own):
            await self._end_shim(served)
        if self._driver.direct:
            end_process(task_)
            if cgroup:
                await self._driver.cgroups.kill(cgroup)
        elif served is not None and not self.is_alive(own):
            await self._end_machine(served)
        code, at = 128 + signal.SIGKILL, time.time_ns()
        answer = await self._clean(id, own)
        if answer is not None:
            code, at = answer
        message = f"its shim (process {pid}) ended; what was left of container {ids.short(id)} was killed"
        return Exit(code=code, at=at, reason="Unknown", message=message)

    async def end_unheard(self, id: str, cgroup: str, seconds: float) -> Exit:
        """The end of a container whose process has ended, and whose shim lives and did not say so within `seconds`: the
        shim stays for the pod's other containers."""
        if cgroup:
            await self._driver.cgroups.kill(cgroup)
        served = self._driver.bundle(id).read_served()
        pid = served.shim.pid if served is not None else 0
        message = f"it ended, and its shim (process {pid}), which hangs, did not tell how within {seconds:g} s"
        return Exit(code=128 + signal.SIGKILL, at=time.time_ns(), reason="Unknown", message=message)

    async def end_hanging(self, own: record.Bundle) -> None:
        """Kill the shim, and so its virtual machine with all that is in it: of a container that must die, where nobody
        else could end it. Its containers' ends are told as those of any dead shim's."""
        served = own.read_served()
        if served is not None:
            log.warning("a shim that hangs is killed", extra={"id": served.owner, "pid": served.shim.pid})
            await self._end_shim(served)

    async def _end_machine(self, served: record.Served) -> None:
        """Of a dead shim: its virtual machine does not end with it, and its containers run on in there."""
        path = self._driver.bundle(served.owner).read_record().cgroup
        if path:
            await self._driver.cgroups.kill(path)

    def is_alive(self, own: record.Bundle) -> bool:
        """Whether the shim's process is there, whatever it says."""
        served = own.read_served()
        return served is not None and process.is_alive(served.shim.pid, served.shim.start)

    async def _clean(self, id: str, own: record.Bundle) -> tuple[int, int] | None:
        """The program's verb: code and time of the end as it was recorded, None if nobody tells. One that fails may
        have been killed in the middle, and is run again."""
        for _ in range(CLEAN_TRIES):
            try:
                answer = await self._driver.binary.delete(id, own.directory)
            except (RopewalkError, OSError) as error:
                log.warning("cleaning up after a dead shim failed", extra={"id": id, "error": str(error)})
                continue
            if answer is None or not answer.exited_at.seconds:
                return None
            return task.read_end(answer)
        return None

    async def _end_shim(self, served: record.Served) -> None:
        await process.end(served.shim.pid, served.shim.start)
        await self._driver.connections.drop(served.endpoint, served.owner)
        unlink_socket(task.socket_path(served.endpoint.address))

    # Everything of an id

    async def remove(self, id: str, cgroup: str) -> None:
        """The bundle goes last: as long as it is there, something may be at work for it, or about to be. One whose
        daemon was killed between its fork and its exec has nothing to be found by at first, so they are looked for
        until a round ends without any."""
        driver = self._driver
        own = driver.bundle(id)
        path = cgroup or own.read_record().cgroup
        if not os.path.lexists(own.directory):
            if path:
                await driver.cgroups.kill(path)
                await driver.cgroups.remove(path)
            return
        driver.loggers.release(id)
        making = own.read_task() is None  # what is at work is looked for among all processes: it costs milliseconds
        with oci.explained(id):
            while True:
                deleted = await self.delete_task(id)
                steps.checkpoint("task:deleted")
                found = await self._end_workers(id, own) if making else []
                if path and driver.direct:
                    await driver.cgroups.kill(path)
                if not found:
                    break
            if self._has_leftovers(id, own, deleted=deleted):
                await self._clean(id, own)
            if driver.direct and os.path.lexists(state := os.path.join(driver.root, id)):
                paths.remove_tree(state)  # of a runtime that was killed, or fails: nothing of the container is left
            await self._end_own_shim(id, own)
            steps.checkpoint("shim:ended")
            logger = own.read_logger()
            if logger is not None:
                await process.end(logger.pid, logger.start, grace=FLUSH_SECONDS)
            if path:
                if not driver.direct:  # a machine whose shim died before it had written down that there is one
                    await driver.cgroups.kill(path)
                await driver.cgroups.remove(path)
            driver.events.forget(id)
            driver.connections.unlisten(id)
            own.remove()

    async def remove_pod(self, id: str, cgroup: str) -> None:
        """Its containers have ended, but may be there: a shim with tasks does not end, so they are deleted first."""
        members = [name for name in self._members(id) if name != id]
        await asyncio.gather(*(self.delete_task(name) for name in members))
        await self.remove(id, cgroup)

    def _members(self, owner: str) -> list[str]:
        """Bundles that the shim of `owner` serves."""
        found = []
        for name in os.listdir(self._driver.containers):
            served = self._driver.bundle(name).read_served()
            if served is not None and served.owner == owner:
                found.append(name)
        return found

    def _has_leftovers(self, id: str, own: record.Bundle, *, deleted: bool) -> bool:
        """Whether the runtime may have made something: it has state of the id, or its shim cannot tell."""
        if not self._driver.direct:
            return not deleted and os.path.exists(own.path("config.json"))
        return os.path.lexists(os.path.join(self._driver.root, id))

    async def _end_workers(self, id: str, own: record.Bundle) -> list[int]:
        """What is at work for this id without being known: a `start`, an unrecorded shim, the runtime's creators."""
        served = own.read_served()
        known = served.shim.pid if served is not None else 0
        found: list[int] = []
        try:
            async with asyncio.timeout(END_SECONDS):
                while now := [pid for pid in self._workers(id, own) if pid != known]:
                    found += now
                    await asyncio.gather(*(process.end(pid, process.start_time(pid) or 0) for pid in now))
        except TimeoutError:
            text = f"container {ids.short(id)}: processes {found}, which were making it, do not die"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None
        return found

    def _workers(self, id: str, own: record.Bundle) -> list[int]:
        """By the bundle's path alone it could be anybody who looks at its files. The logger that is known ends by
        itself."""
        settings, logger = self._driver.settings, own.read_logger()
        programs = (settings.engine, binary.file_name(settings.program), settings.logger)
        names = {os.path.basename(name).encode() for name in programs if name}
        found = process.find(os.fsencode(own.directory)) if self._driver.direct else []
        creators = [pid for pid in found if process.program_name(pid) in names]
        mine = {logger.pid if logger is not None else 0, os.getpid()}
        return [pid for pid in (*self._driver.binary.starters(id), *creators) if pid not in mine]

    async def _end_own_shim(self, id: str, own: record.Bundle) -> None:
        """Of the shim that was started for this id: ask it, wait, kill; then its socket, recorded or not."""
        driver = self._driver
        served = own.read_served()
        if served is not None and served.owner == id:
            with contextlib.suppress(task.Gone, TimeoutError, RopewalkError):  # whatever it says, it ends
                async with asyncio.timeout(END_SECONDS):
                    shim = await driver.reach(own, id)
                    if driver.settings.sandbox in ("api", "auto"):
                        with contextlib.suppress(RopewalkError):
                            await shim.stop_sandbox(id, STOP_SECONDS)
                        await shim.shutdown_sandbox(id)
                    await shim.shutdown(id)
            grace = SHUTDOWN_SECONDS if driver.direct else MACHINE_SECONDS
            await process.end(served.shim.pid, served.shim.start, grace=grace)
            await driver.connections.drop(served.endpoint, id)
            unlink_socket(task.socket_path(served.endpoint.address))
        if served is None:
            address = own.read_address()
            if address and not self._is_served(address):
                unlink_socket(task.socket_path(address))
            unlink_socket(self._usual_socket(id))

    def _is_served(self, address: str) -> bool:
        """Whether a shim that is known listens there: a `start` that only names the pod's leaves that address, too."""
        bundles = map(self._driver.bundle, os.listdir(self._driver.containers))
        return any(served.endpoint.address == address for own in bundles if (served := own.read_served()) is not None)

    def _usual_socket(self, id: str) -> str:
        """Where containerd's library puts a shim's socket (pkg/shim CreateSocketAddress)."""
        place = self._driver.binary.place
        name = os.path.normpath(f"{place.identity}/{place.namespace}/{id}")
        return f"{SOCKETS}/{hashlib.sha256(name.encode()).hexdigest()}"

    async def sweep(self, owned: set[str]) -> list[str]:
        driver = self._driver
        present = {id for id in os.listdir(driver.containers) if driver.bundle(id).read_record().runtime == driver.name}
        cgroups = {os.path.relpath(path, driver.node.cgroup) for path in driver.cgroups.list(driver.node.cgroup)}
        present |= {name for name in cgroups if name.startswith(driver.probe_prefix) and "/" not in name}
        found = sorted(present - owned - driver.probing)
        owns = {id: (served := driver.bundle(id).read_served()) is not None and served.owner == id for id in found}
        for id in sorted(found, key=lambda id: owns[id]):  # a shim that has containers does not end by itself
            await self.remove(id, driver.probe_cgroup(id) if id.startswith(driver.probe_prefix) else "")
        return found


async def _delete_ended(shim: task.Shim, id: str) -> None:
    """Kata tells an end a moment before it lets the task be deleted, and a shim with tasks does not end: it would have
    to be killed, and leave what it had made."""
    for pause in AGAIN:
        try:
            await shim.delete(id)
            return
        except RopewalkError as error:
            if error.kind in (Kind.NOT_FOUND, Kind.TIMEOUT):
                raise
        await asyncio.sleep(pause)
    await shim.delete(id)


def end_process(task_: Task) -> None:
    """SIGKILL; where an AppArmor profile does not let it in, the kill of the cgroup does the same."""
    with contextlib.suppress(PermissionError):
        process.send(task_.pid, task_.pid_start, signal.SIGKILL)


def unlink_socket(path: str) -> None:
    """If it is one; idempotent."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if path.startswith("/") and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
