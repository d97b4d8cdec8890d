"""ttrpc: the calls of containerd's shims, over a stream socket (github.com/containerd/ttrpc PROTOCOL.md).

A frame is a header of ten bytes, big-endian (length, stream, type, flags), and at most 4 MiB of data. A unary call is
one request and one response on a stream of its own; the client's streams have odd numbers that only grow. Requests run
side by side on one connection, so a call that waits (`Wait`) holds up nothing.

`FrameReader` is fed bytes and never sees a socket. `Client` and `Server` are asyncio protocols around it. Streams of
more than one message (version 1.2) are not spoken: no shim's task service has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ropewalk.wire.pb import ttrpc_pb2 as pb

HEADER = struct.Struct(">IIBB")
LIMIT = 4 << 20  # bytes of data in one frame
REQUEST, RESPONSE = 1, 2
CLOSED_FLAG, OPEN_FLAG = 1, 2
LAST_STREAM = (1 << 31) - 1
OK, INVALID, NOT_FOUND, UNIMPLEMENTED, INTERNAL = 0, 3, 5, 12, 13  # gRPC's codes

log = logging.getLogger(__name__)


class Frame(NamedTuple):
    stream: int
    type: int
    flags: int
    data: bytes


class ProtocolError(Exception):
    """The peer does not speak ttrpc, or breaks its rules; the connection is of no more use."""


class Refused(Exception):
    """The peer answered with an error: gRPC's status code, and its text."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message or f"status {code}")


class Closed(Exception):
    """The connection ended before the answer came."""


def encode(stream: int, type: int, data: bytes, flags: int = 0) -> bytes:
    """One frame. ValueError if `data` is longer than a frame may hold."""
    if len(data) > LIMIT:
        raise ValueError(f"a frame of {len(data)} bytes; {LIMIT} are allowed")
    return HEADER.pack(len(data), stream, type, flags) + data


class FrameReader:
    """Frames out of a stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. ProtocolError as soon as a header says more than a frame may hold."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, stream, type, flags = HEADER.unpack_from(self._buffer, start)
            if length > LIMIT:
                raise ProtocolError(f"a frame of {length} bytes on stream {stream}; {LIMIT} are allowed")
            end = start + HEADER.size + length
            if end > len(self._buffer):
                break
            frames.append(Frame(stream, type, flags, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames

    @property
    def is_inside_frame(self) -> bool:
        """Whether an end of the stream now would cut a frame."""
        return bool(self._buffer)


class Client(asyncio.Protocol):
    """One connection. `closed` is done when it has ended, whatever ended it; calls under way raise Closed then."""

    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self._metadata = [pb.KeyValue(key=key, value=value) for key, value in (metadata or {}).items()]
        self._reader = FrameReader()
        self._stream = 1
        self._answers: dict[int, asyncio.Future[pb.Response]] = {}
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why = "the connection is closed"

    async def call(self, service: str, method: str, payload: bytes, *, timeout: float | None) -> bytes:
        """The answer's payload. Refused, Closed; TimeoutError after `timeout` seconds (None: wait for ever), which are
        told to the peer, too. A late answer is dropped."""
        if self._transport is None or self.closed.done() or self._stream > LAST_STREAM:
            raise Closed(self._why)
        request = pb.Request(service=service, method=method, payload=payload, metadata=self._metadata)
        if timeout is not None:
            request.timeout_nano = int(timeout * 1e9)
        stream, self._stream = self._stream, self._stream + 2
        answer: asyncio.Future[pb.Response] = asyncio.get_running_loop().create_future()
        self._answers[stream] = answer
        try:
            self._transport.write(encode(stream, REQUEST, request.SerializeToString()))
            async with asyncio.timeout(timeout):
                response = await answer
        finally:
            self._answers.pop(stream, None)
        if response.status.code != OK:
            raise Refused(response.status.code, response.status.message)
        return response.payload

    async def close(self) -> None:
        """End the connection; calls under way raise Closed."""
        if self._transport is not None:
            self._transport.abort()
            await asyncio.wait([self.closed])

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (ProtocolError, DecodeError) as error:
            self._why = f"the peer does not speak ttrpc: {error}"
            assert self._transport is not None
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        """An answer, or one that came too late for its caller."""
        if frame.type != RESPONSE:
            raise ProtocolError(f"a frame of type {frame.type} on stream {frame.stream}, an answer was expected")
        response = pb.Response.FromString(frame.data)
        answer = self._answers.pop(frame.stream, None)
        if answer is not None and not answer.done():
            answer.set_result(response)
        elif frame.stream >= self._stream or frame.stream % 2 == 0:
            raise ProtocolError(f"an answer on stream {frame.stream}, where nothing was asked")

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._why = f"the connection was lost: {error}"
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Closed(self._why))
        self._answers.clear()
        if not self.closed.done():
            self.closed.set_result(None)


async def connect(path: str, *, timeout: float, metadata: Mapping[str, str] | None = None) -> Client:
    """A client of the unix socket at `path` (one that begins with NUL is abstract). OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        _, client = await loop.create_unix_connection(lambda: Client(metadata), path)
    return client


async def adopt(connected: socket.socket, *, metadata: Mapping[str, str] | None = None) -> Client:
    """A client of a stream socket that is connected already, of any family."""
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(metadata), sock=connected)
    return client


Answer = Callable[[str, str, bytes], Awaitable[bytes]]  # service, method, payload -> payload; may raise Refused


class Server:
    """Answers calls on a unix socket; each runs as a task of its own, in the order of arrival up to its first await."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[_Connection] = set()

    async def start(self, listening: socket.socket) -> None:
        """Serve a socket that is bound already: its owner decides on its mode and on what was there before."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listening)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        calls = [call for connection in self._connections for call in connection.calls]
        await asyncio.gather(*calls, return_exceptions=True)
        self._connections.clear()


class _Connection(asyncio.Protocol):
    """A client of the server."""

    def __init__(self, server: Server) -> None:
        self._owner = server
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.calls: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._owner._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (ProtocolError, DecodeError) as error:
            log.warning("a ttrpc client was cut off", extra={"error": str(error)})
            self.abort()

    def _take(self, frame: Frame) -> None:
        if frame.type != REQUEST or frame.stream % 2 == 0:
            raise ProtocolError(f"a frame of type {frame.type} on stream {frame.stream}, a request was expected")
        if frame.flags & OPEN_FLAG:
            self._reply(frame.stream, UNIMPLEMENTED, "streams of several messages are not spoken here")
            return
        call = asyncio.ensure_future(self._serve(frame.stream, pb.Request.FromString(frame.data)))
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)

    async def _serve(self, stream: int, request: pb.Request) -> None:
        try:
            payload = await self._owner._answer(request.service, request.method, request.payload)
        except Refused as error:
            self._reply(stream, error.code, error.message)
        except Exception as error:
            log.error("a ttrpc call failed", extra={"method": request.method}, exc_info=error)
            self._reply(stream, INTERNAL, f"{type(error).__name__}: {error}")
        else:
            self._reply(stream, OK, "", payload)

    def _reply(self, stream: int, code: int, message: str, payload: bytes = b"") -> None:
        if self._transport is None or self._transport.is_closing():
            return
        response = pb.Response(payload=payload)
        if code != OK:
            response.status.code, response.status.message = code, message
        with contextlib.suppress(ValueError):  # an answer that no frame holds: the peer's deadline ends it
            self._transport.write(encode(stream, RESPONSE, response.SerializeToString()))

    def connection_lost(self, error: Exception | None) -> None:
        for call in self.calls:
            call.cancel()
        self._owner._connections.discard(self)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
