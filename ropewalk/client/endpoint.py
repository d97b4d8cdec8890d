"""One endpoint on a unix socket: which one, a channel to it, calls whose errors have kinds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from ropewalk.errors import Kind, RopewalkError
from ropewalk.wire import codes
from ropewalk.wire import grpc as wire

DEFAULT = "/run/ropewalk/ropewalk.sock"
VARIABLE = "ROPEWALK_ADDRESS"

E = TypeVar("E", bound="Endpoint")


def address(given: str = "") -> str:
    """The socket to speak to: as given, else $ROPEWALK_ADDRESS, else the default."""
    return given or os.environ.get(VARIABLE, "") or DEFAULT


class Endpoint:
    """An async context manager around the channel; subclasses add one method per call."""

    def __init__(self, given: str = "") -> None:
        self.address = address(given)
        self._channel = wire.channel(self.address)

    async def __aenter__(self: E) -> E:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def _unary(self, service: ServiceDescriptor, name: str, request: Message, timeout: float | None) -> Any:
        """The reply of one method. Raises RopewalkError with the kind of the status code."""
        method = service.methods_by_name[name]
        call = self._channel.unary_unary(
            path(method),
            type(request).SerializeToString,
            message_factory.GetMessageClass(method.output_type).FromString,
        )
        try:
            return await call(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    async def _stream(self, service: ServiceDescriptor, name: str, request: Message) -> AsyncIterator[Any]:
        method = service.methods_by_name[name]
        call = self._channel.unary_stream(
            path(method),
            type(request).SerializeToString,
            message_factory.GetMessageClass(method.output_type).FromString,
        )
        try:
            async for reply in call(request):
                yield reply
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None

    def _error(self, error: grpc.aio.AioRpcError) -> RopewalkError:
        kind = codes.kind(error.code())
        text = error.details() or error.code().name
        if kind is Kind.UNAVAILABLE and not os.path.exists(self.address.removeprefix("unix://")):
            return RopewalkError(
                f"no socket {self.address}",
                hint=f"start `ropewalk serve`, or set --address or {VARIABLE}",
                kind=kind,
            )
        return RopewalkError(text, kind=kind)


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"
