"""gRPC over a unix socket: the server's handlers made from service descriptors, and the clients' channel.

A service is any object whose methods have the descriptor's names: `async def Name(request) -> message or bytes`,
or an async generator of them where the method streams. What it does not have answers UNIMPLEMENTED. Requests are
parsed and replies serialised here, so that a malformed request is INVALID_ARGUMENT, and a list may be given as
bytes that were serialised before. Each call gets an operation id and one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import operator
import os
import socket
import time
import urllib.parse
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.wire import codes, operation

LIMIT = 16 << 20  # bytes per message, both ways: what kubelet accepts (contract 1.1)
DETAILS_LIMIT = 4096  # an error's text travels in HTTP/2 headers, of which clients accept 8 KiB
SOCKET_MODE = 0o660
PATH_LIMIT = 107  # sockaddr_un.sun_path
PATIENCE = 1.0  # seconds for one that answers on our socket to go away
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
_OPTIONS = (
    ("grpc.max_receive_message_length", LIMIT),
    ("grpc.max_send_message_length", LIMIT),
)

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Read = Callable[[Any], str]

SUBJECTS = (
    ("pod", "pod_sandbox_id"),
    ("container", "container_id"),
    ("image", "image.image"),
    ("image_id", "image_ref"),
    ("namespace", "config.metadata.namespace"),
    ("pod_name", "config.metadata.name"),
)


class Server:
    """Serves `services` (descriptor, implementation) on a unix socket."""

    def __init__(self, services: list[tuple[ServiceDescriptor, object]]) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(tuple(_handlers(d, implementation) for d, implementation in services))

    async def start(self, path: str) -> None:
        """Answer on `path` (mode 0660). Kind.STATE if another process answers there."""
        await claim(path)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            self._server.add_insecure_port(target(path))
        except RuntimeError as error:
            raise RopewalkError(f"cannot listen on {path}: {error}", kind=Kind.STATE) from error
        finally:
            os.umask(before)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """No new calls; those under way have `grace` seconds."""
        await self._server.stop(grace)


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


def target(address: str) -> str:
    """gRPC's name for a unix socket given as a path or as unix://path."""
    path = address.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    return "unix:" + urllib.parse.quote(path)


def channel(address: str) -> grpc.aio.Channel:
    """A channel to the endpoint at `address` (a path, or unix://path)."""
    options = (*_OPTIONS, ("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0))
    return grpc.aio.insecure_channel(target(address), options=options)


def _handlers(service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
    table: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        function = getattr(implementation, method.name, None)
        call = Call(method, function)
        if method.server_streaming and function is not None:
            table[method.name] = grpc.unary_stream_rpc_method_handler(call.stream)
        elif method.server_streaming:
            table[method.name] = grpc.unary_stream_rpc_method_handler(call.answer)
        else:
            table[method.name] = grpc.unary_unary_rpc_method_handler(call.answer)
    return grpc.method_handlers_generic_handler(service.full_name, table)


class Call:
    """One method: parse, run, serialise, translate what goes wrong, log."""

    def __init__(self, method: MethodDescriptor, function: Callable[[Any], Any] | None) -> None:
        self.name = method.name
        self._function = function
        self._request = message_factory.GetMessageClass(method.input_type)
        self._subjects = _subjects(method.input_type)
        self._replies = _subjects(method.output_type)
        self._secrets = _secrets(method.input_type)
        self._level = logging.DEBUG if method.name.startswith(QUIET) or method.name.endswith("Status") else logging.INFO

    async def answer(self, data: bytes, context: Context) -> bytes:
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
            code, details = self._failed(error, request, began)
            if isinstance(error, asyncio.CancelledError):
                raise
            await context.abort(code, details)
        self._done(request, reply, began)
        return result

    async def stream(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
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
            code, details = self._failed(error, request, began)
            await context.abort(code, details)
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

    def _failed(self, error: BaseException, request: Message | None, began: float) -> tuple[grpc.StatusCode, str]:
        """The code and text that the caller gets; the log gets the traceback of what nobody expected."""
        facts = self._facts(request, None, began)
        if isinstance(error, asyncio.CancelledError):
            log.info("call", extra=facts | {"code": "CANCELLED"})
            return grpc.StatusCode.CANCELLED, ""
        seen = codes.expected(error)
        if seen is None:
            log.error("call", extra=facts | {"code": "INTERNAL"}, exc_info=error)
            text = f"{type(error).__name__}: {error}"
            return grpc.StatusCode.INTERNAL, self._redacted(f"{text} (operation {operation.current()})", request)
        code = codes.CODES[seen.kind]
        text = self._redacted("; ".join([str(seen), *notes(error)]), request)
        level = logging.ERROR if seen.kind is Kind.INTERNAL else self._level
        log.log(level, "call", extra=facts | {"code": code.name, "error": text})
        return code, text

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
