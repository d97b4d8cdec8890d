"""The connections to running shims, one per address, made when somebody needs them; and what shims say in their log.

A shim writes its messages to the fifo `log` in the bundle that it was started for. It must have a reader while it
starts, or it waits for ever; later ones are for the daemon's own log, and the last of them explain a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from ropewalk import ids
from ropewalk.linux import process
from ropewalk.runtimes.drivers.shim import record, task
from ropewalk.runtimes.drivers.shim.binary import Endpoint
from ropewalk.singleflight import Flights

TAIL = 2048  # bytes of messages that are kept for errors
CHUNK = 65536

log = logging.getLogger(__name__)


class Messages:
    """The reader of one shim's log."""

    def __init__(self, own: record.Bundle, owner: str) -> None:
        self._owner = owner
        self._tail = b""
        self._fd = os.open(own.make_fifo("log"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, CHUNK)
            self._tail = (self._tail + data)[-TAIL:]
            for line in data.decode(errors="replace").splitlines():
                log.debug("shim", extra={"id": self._owner, "said": line})

    def last(self) -> str:
        """The last line, "" if there is none."""
        if self._fd >= 0:
            self._read()
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Connections:
    """Of one handler. `namespace`: containerd's word for what keeps ids of different clients apart."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._shims: dict[str, task.Shim] = {}
        self._messages: dict[str, Messages] = {}
        self._flights: Flights[task.Shim] = Flights(abandon=False)

    def listen(self, own: record.Bundle, owner: str) -> Messages:
        """Read the messages of the shim that was, or will be, started in this bundle."""
        if owner not in self._messages:
            self._messages[owner] = Messages(own, owner)
        return self._messages[owner]

    async def get(self, endpoint: Endpoint, id: str, pid: int = 0) -> task.Shim:
        """A connection that has not ended, and greeted. Gone if nobody answers. `pid`: the shim's own as far as it is
        known, for one that does not say."""
        known = self._shims.get(endpoint.address)
        if known is not None and not known.is_gone:
            return known
        return await self._flights.join(endpoint.address, lambda: self._connect(endpoint, id, pid))

    async def _connect(self, endpoint: Endpoint, id: str, pid: int) -> task.Shim:
        shim = await task.connect(endpoint, self._namespace)
        try:
            if not await shim.greet(id):
                shim.pid = pid
            elif not is_plausible(shim.pid):
                raise task.Gone(f"{endpoint.address}: the shim of {ids.short(id)} says that it is process {shim.pid}")
        except BaseException:
            await shim.close()
            raise
        self._shims[endpoint.address] = shim
        shim.client.closed.add_done_callback(lambda _: self._forget(endpoint.address, shim))
        return shim

    def _forget(self, address: str, shim: task.Shim) -> None:
        """Its connection has ended. A shim that died before its address was written down is dropped by nobody else."""
        if self._shims.get(address) is shim:
            del self._shims[address]

    async def drop(self, endpoint: Endpoint, owner: str) -> None:
        """It is dead, or will be: let go of what we hold of it."""
        shim = self._shims.pop(endpoint.address, None)
        if shim is not None:
            await shim.close()
        self.unlisten(owner)

    def unlisten(self, owner: str) -> None:
        messages = self._messages.pop(owner, None)
        if messages is not None:
            messages.close()

    async def close(self) -> None:
        for shim in list(self._shims.values()):
            await shim.close()
        self._shims.clear()
        for owner in list(self._messages):
            self.unlisten(owner)


def is_plausible(pid: int) -> bool:
    """Whether a shim may speak of this process as its own, or as a container's: it may be killed one day. One in a PID
    namespace of its own tells other numbers than the node's."""
    return pid > 1 and pid != os.getpid()


def identify(shim: task.Shim) -> record.Process:
    return record.Process(shim.pid, process.start_time(shim.pid) or 0)
