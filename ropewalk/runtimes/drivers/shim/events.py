"""What shims tell unasked: a ttrpc server that they call with each event, in the order in which they happened.

Only what nothing else says is kept: which container ran out of memory inside a virtual machine, and that all events
up to its end have come. Ends themselves are learnt by `Wait`, which a daemon that was away can ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from google.protobuf.message import DecodeError

from ropewalk.errors import Invalid
from ropewalk.wire import ttrpc
from ropewalk.wire.pb import shim_pb2 as pb

SERVICE = "containerd.services.events.ttrpc.v1.Events"
BACKLOG = 512


class _Told:
    """What was told of one container."""

    def __init__(self) -> None:
        self.oom = False
        self.ended = asyncio.Event()


class Events:
    """Listens at `path` from `start` on. Shims that outlive the daemon find the next one there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._server = ttrpc.Server(self._answer)
        self._started = False
        self._told: dict[str, _Told] = {}

    async def start(self) -> None:
        """Idempotent. Whoever has the state directory has what lies in it: a socket there is a dead daemon's."""
        if self._started:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(self.path)
        except OSError as error:
            listening.close()
            raise Invalid(
                f"cannot listen on {self.path}: {error}", hint="the state directory's path is long"
            ) from error
        self._started = True
        os.chmod(self.path, 0o600)
        listening.listen(BACKLOG)
        await self._server.start(listening)

    async def close(self) -> None:
        """Shims try again for as long as nobody listens."""
        await self._server.close()

    def follow(self, id: str) -> None:
        """From now on keep what is told of this container, until `forget`."""
        self._told.setdefault(id, _Told())

    def forget(self, id: str) -> None:
        self._told.pop(id, None)

    def is_oom(self, id: str) -> bool:
        """Whether the container was said to have run out of memory."""
        return id in self._told and self._told[id].oom

    async def ended(self, id: str, timeout: float) -> bool:
        """Whether the event of its end came within `timeout` seconds: then everything before it has come, too."""
        if id not in self._told:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._told[id].ended.wait()
        return False

    async def _answer(self, service: str, method: str, payload: bytes) -> bytes:
        if (service, method) != (SERVICE, "Forward"):
            raise ttrpc.Refused(ttrpc.UNIMPLEMENTED, f"{service}/{method} is not served here")
        try:
            self.take(pb.ForwardRequest.FromString(payload).envelope)
        except DecodeError as error:
            raise ttrpc.Refused(ttrpc.INVALID, f"the event cannot be read: {error}") from error
        return b""

    def take(self, envelope: pb.Envelope) -> None:
        """One event. The end of an exec has the container's id, too, with its own beside it."""
        if envelope.topic == "/tasks/oom":
            id = pb.TaskOOM.FromString(envelope.event.value).container_id
            if id in self._told:
                self._told[id].oom = True
        elif envelope.topic == "/tasks/exit":
            exit = pb.TaskExit.FromString(envelope.event.value)
            if exit.id in ("", exit.container_id) and exit.container_id in self._told:
                self._told[exit.container_id].ended.set()
