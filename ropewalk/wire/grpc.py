"""gRPC over a unix socket: the server's side, on our own HTTP/2 (docs/decisions/0015), and the clients' channel.

A service is any object whose methods have the descriptor's names: `async def Name(request) -> message or bytes`,
or an async generator of them where the method streams. What it does not have answers UNIMPLEMENTED. Requests are
parsed and replies serialised here, so that a malformed request is INVALID_ARGUMENT, and a list may be given as
bytes that were serialised before. Each call gets an operation id and one line in the log.

On the wire (gRPC's PROTOCOL-HTTP2.md) a call is a POST to /service/method whose data are messages, each after a byte
that says whether it is compressed and four of its length; the status comes in the trailers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import operator
import os
import re
import socket
import time
import zlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.wire import codes, hpack, http2, operation
from ropewalk.wire.codes import Status

LIMIT = 16 << 20  # bytes per message, both ways: what kubelet accepts (contract 1.1)
DETAILS_LIMIT = 4096  # an error's text travels in HTTP/2 headers, of which clients accept 8 KiB
SOCKET_MODE = 0o660
PATH_LIMIT = 107  # sockaddr_un.sun_path
PATIENCE = 1.0  # seconds for one that answers on our socket to go away
BACKLOG = 128
# What kubelet asks again and again: lists, conditions, and for each container probes (ExecSync) and its CPU set.
QUIET = (
    "List",
    "Stream",
    "Version",
    "Status",
    "ImageFsInfo",
    "RuntimeConfig",
    "Watch",
    "ExecSync",
    "UpdateContainerResources",
)

_PREFIX = 5  # bytes before a message
_HEAD = bytes((0x88,)) + hpack.encode([(b"content-type", b"application/grpc")])  # 0x88 is ":status: 200"
_NO_GRPC = hpack.encode([(b":status", b"415")])
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_ENCODINGS = (b"gzip", b"deflate")
_EITHER = zlib.MAX_WBITS | 32  # of the two

log = logging.getLogger(__name__)

Read = Callable[[Any], str]

SUBJECTS = (
    ("pod", "pod_sandbox_id"),
    ("container", "container_id"),
    ("image", "image.image"),
    ("image_id", "image_ref"),
    ("namespace", "config.metadata.namespace"),
    ("pod_name", "config.metadata.name"),
)


class Failed(Exception):
    """A call that ends with another status than OK."""

    def __init__(self, status: Status, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"{status.name}: {text}")


class Server:
    """Serves `services` (descriptor, implementation) on a unix socket."""

    def __init__(self, services: list[tuple[ServiceDescriptor, object]]) -> None:
        self._calls = {
            f"/{service.full_name}/{method.name}".encode(): Call(method, getattr(implementation, method.name, None))
            for service, implementation in services
            for method in service.methods
        }
        self._connections: set[http2.Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._path = ""

    async def start(self, path: str) -> None:
        """Answer on `path` (mode 0660). Kind.STATE if another process answers there."""
        await claim(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listening.bind(path)
        except OSError as error:
            listening.close()
            raise RopewalkError(f"cannot listen on {path}: {error}", kind=Kind.STATE) from error
        finally:
            os.umask(before)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._connected, sock=listening, backlog=BACKLOG)
        self._path = path

    async def stop(self, grace: float) -> None:
        """No new calls; those under way have `grace` seconds."""
        if self._server is None:
            return
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        for connection in self._connections:
            connection.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.close()

    def _connected(self) -> http2.Connection:
        connection = http2.Connection(self._requested, self._connections.discard, limit=LIMIT + _PREFIX)
        self._connections.add(connection)
        return connection

    def _requested(self, stream: http2.Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        stream.gone = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: http2.Stream) -> None:
        """One call. The peer's deadline cancels it, as its leaving does; only the former is answered."""
        if not stream.headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await stream.send(b"", b"", _NO_GRPC)
            return
        try:
            async with asyncio.timeout(_deadline(stream.headers.get(b"grpc-timeout", b""))):
                await self._answer(stream)
        except TimeoutError:
            failed = Failed(Status.DEADLINE_EXCEEDED, "the call's own deadline passed")
            await stream.send(b"", b"", _trailers(failed, begun=stream.begun))
        except Failed as error:
            await stream.send(b"", b"", _trailers(error, begun=stream.begun))

    async def _answer(self, stream: http2.Stream) -> None:
        path = stream.headers.get(b":path", b"")
        call = self._calls.get(path)
        if call is None:
            raise Failed(Status.UNIMPLEMENTED, f"no method {path.decode(errors='replace')[:100]}")
        request = read_message(stream)
        if not call.streams:
            await stream.send(_HEAD, _prefixed(await call.answer(request)), _OK)
            return
        async with contextlib.aclosing(call.stream(request)) as replies:
            async for reply in replies:
                await stream.send(b"" if stream.begun else _HEAD, _prefixed(reply))
        await stream.send(b"" if stream.begun else _HEAD, b"", _OK)


def _deadline(timeout: bytes) -> float | None:
    """Seconds; None where there is no deadline, or none that can be read."""
    found = _TIMEOUT.fullmatch(timeout)
    return int(found[1]) * _SECONDS[found[2]] if found else None


def read_message(stream: http2.Stream) -> bytes:
    """The one message of a request. Failed if it is none, or larger than LIMIT."""
    body = stream.body
    if stream.overflowed:
        raise Failed(Status.RESOURCE_EXHAUSTED, f"the request has more than {LIMIT} bytes")
    if len(body) < _PREFIX or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        raise Failed(Status.INTERNAL, f"the request is not one message: {len(body)} bytes, {bytes(body[:_PREFIX])!r}")
    message = bytes(memoryview(body)[_PREFIX:])
    return _decompressed(message, stream.headers.get(b"grpc-encoding", b"")) if body[0] else message


def _decompressed(message: bytes, encoding: bytes) -> bytes:
    if encoding not in _ENCODINGS:
        raise Failed(Status.UNIMPLEMENTED, f"no compression {encoding.decode(errors='replace')[:100]!r}")
    expander = zlib.decompressobj(_EITHER)
    try:
        expanded = expander.decompress(message, LIMIT + 1)
    except zlib.error as error:
        raise Failed(Status.INTERNAL, f"the request cannot be expanded: {error}") from error
    if len(expanded) > LIMIT:
        raise Failed(Status.RESOURCE_EXHAUSTED, f"the request has more than {LIMIT} bytes")
    if not expander.eof:
        raise Failed(Status.INTERNAL, "the request cannot be expanded: it is cut")
    return expanded


def _prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _trailers(failed: Failed, *, begun: bool) -> bytes:
    """Without anything before them they begin the answer, too."""
    text = "".join(
        char if " " <= char <= "~" and char != "%" else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in failed.text
    )
    trailers = hpack.encode([(b"grpc-status", b"%d" % failed.status), (b"grpc-message", text.encode())])
    return trailers if begun else _HEAD + trailers


_OK = hpack.encode([(b"grpc-status", b"0")])


async def claim(path: str) -> None:
    """Make room for our socket: a stale one is removed, one that somebody answers on is an error.

    A child that a killed daemon was just starting holds the socket until its exec, and connections to it succeed: so
    one that answers is asked again for a moment."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise Invalid(f"the socket path {path!r} is longer than {PATH_LIMIT} bytes", hint="choose a shorter --address")
    deadline = time.monotonic() + PATIENCE
    while answers(path):
        if time.monotonic() >= deadline:
            raise RopewalkError(
                f"another process answers on {path}",
                hint="stop it, or give this one its own --address",
                kind=Kind.STATE,
            )
        await asyncio.sleep(0.02)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def answers(path: str) -> bool:
    """Whether somebody listens on a unix socket. False for a stale one and for none; Invalid for another file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOTSOCK):
                raise RopewalkError(f"cannot use the socket {path}: {error}", kind=Kind.STATE) from error
            if error.errno == errno.ENOTSOCK or not is_socket(path):
                raise Invalid(f"{path} exists and is not a socket") from error
            return False
    return True


def is_socket(path: str) -> bool:
    return os.path.lexists(path) and (os.lstat(path).st_mode & 0o170000) == 0o140000


class Call:
    """One method: parse, run, serialise, translate what goes wrong, log."""

    def __init__(self, method: MethodDescriptor, function: Callable[[Any], Any] | None) -> None:
        self.name = method.name
        self.streams = method.server_streaming and function is not None
        self._function = function
        self._request = message_factory.GetMessageClass(method.input_type)
        self._subjects = _subjects(method.input_type)
        self._replies = _subjects(method.output_type)
        self._secrets = _secrets(method.input_type)
        self._level = logging.DEBUG if method.name.startswith(QUIET) or method.name.endswith("Status") else logging.INFO

    async def answer(self, data: bytes) -> bytes:
        """The reply's bytes. Failed."""
        operation.begin()
        began = time.perf_counter()
        request: Message | None = None
        try:
            request = self._parse(data)
            if self._function is None:
                raise RopewalkError(f"{self.name} is not built", kind=Kind.UNSUPPORTED)
            reply = await self._function(request)
            result = reply if isinstance(reply, bytes) else reply.SerializeToString()
            self._check_size(len(result))
        except BaseException as error:
            failed = self._failed(error, request, began)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise failed from error
        self._done(request, reply, began)
        return result

    async def stream(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """Each reply's bytes. Failed."""
        operation.begin()
        began = time.perf_counter()
        request: Message | None = None
        try:
            request = self._parse(data)
            assert self._function is not None
            async for reply in self._function(request):
                yield reply if isinstance(reply, bytes) else reply.SerializeToString()
        except (GeneratorExit, asyncio.CancelledError):
            self._done(request, None, began)
            raise
        except Exception as error:
            raise self._failed(error, request, began) from error
        self._done(request, None, began)

    def _parse(self, data: bytes) -> Message:
        try:
            return self._request.FromString(data)
        except DecodeError as error:
            raise Invalid(f"the request of {self.name} cannot be read: {error}") from error

    def _check_size(self, size: int) -> None:
        if size > LIMIT:
            raise RopewalkError(
                f"the reply of {self.name} has {size} bytes, the limit is {LIMIT}",
                hint="use a filter, or the method that streams the list",
                kind=Kind.EXHAUSTED,
            )

    def _done(self, request: Message | None, reply: Any, began: float) -> None:
        if log.isEnabledFor(self._level):
            log.log(self._level, "call", extra=self._facts(request, reply, began) | {"code": "OK"})

    def _failed(self, error: BaseException, request: Message | None, began: float) -> Failed:
        """The code and text that the caller gets; the log gets the traceback of what nobody expected."""
        facts = self._facts(request, None, began)
        if isinstance(error, asyncio.CancelledError):
            log.info("call", extra=facts | {"code": "CANCELLED"})
            return Failed(Status.CANCELLED, "")
        seen = codes.expected(error)
        if seen is None:
            log.error("call", extra=facts | {"code": "INTERNAL"}, exc_info=error)
            text = f"{type(error).__name__}: {error}"
            return Failed(Status.INTERNAL, self._redacted(f"{text} (operation {operation.current()})", request))
        code = codes.CODES[seen.kind]
        text = self._redacted("; ".join([str(seen), *notes(error)]), request)
        level = logging.ERROR if seen.kind is Kind.INTERNAL else self._level
        log.log(level, "call", extra=facts | {"code": code.name, "error": text})
        return Failed(code, text)

    def _facts(self, request: Message | None, reply: Any, began: float) -> dict[str, object]:
        """What the log line says: method, ids and names (nothing else of a request is logged), milliseconds."""
        facts: dict[str, object] = {"method": self.name, "ms": round((time.perf_counter() - began) * 1000, 2)}
        for message, subjects in ((request, self._subjects), (reply, self._replies)):
            if isinstance(message, Message):
                facts |= {name: value for name, read in subjects if (value := read(message))}
        return facts

    def _redacted(self, text: str, request: Message | None) -> str:
        """The text without the request's secrets, short enough for a header."""
        if request is not None:
            for read in self._secrets:
                if secret := read(request):
                    text = text.replace(secret, "…")
        return clipped(text)


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def clipped(text: str) -> str:
    """At most DETAILS_LIMIT bytes as grpc-message, which percent-encodes what is not printable ASCII."""
    text = text.encode(errors="backslashreplace").decode()
    size = 0
    for at, char in enumerate(text):
        size += 1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode())
        if size > DETAILS_LIMIT:
            return text[:at] + "..."
    return text


def _subjects(message: Descriptor) -> list[tuple[str, Read]]:
    """The fields that name what a call is about, with the log's word for each."""
    return [(word, operator.attrgetter(path)) for word, path in SUBJECTS if _has(message, path)]


def _has(message: Descriptor | None, path: str) -> bool:
    name, _, rest = path.partition(".")
    field = message.fields_by_name.get(name) if message is not None else None
    return field is not None and (_has(field.message_type, rest) if rest else field.message_type is None)


def _secrets(message: Descriptor) -> list[Read]:
    """The fields, one level down, that the protocol marks `debug_redact`."""
    return [
        operator.attrgetter(f"{field.name}.{inner.name}")
        for field in message.fields
        if field.message_type is not None and not field.is_repeated
        for inner in field.message_type.fields
        if inner.GetOptions().debug_redact
    ]
