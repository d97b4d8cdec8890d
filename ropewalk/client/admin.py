"""A client of ropewalk.v1.Admin: pull progress and runtime probes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct, field

from ropewalk.client import endpoint
from ropewalk.wire import structural
from ropewalk.wire.pb import admin_pb2 as pb

_ADMIN = pb.DESCRIPTOR.services_by_name["Admin"]


class LayerProgress(Struct, frozen=True):
    """Compressed bytes of one layer."""

    digest: str = ""
    total: int = 0
    fetched: int = 0
    state: str = ""


class PullProgress(Struct, frozen=True):
    image: str = ""
    layers: list[LayerProgress] = field(default_factory=list)
    done: bool = False
    error: str = ""


class Runtime(Struct, frozen=True):
    """A handler and what its probe saw."""

    name: str = ""
    works: bool = False
    version: str = ""
    evidence: str = ""
    advice: str = ""
    default: bool = False
    level: str = ""  # "absent", "present" or "works"
    boundary: str = ""


class Client(endpoint.Endpoint):
    """Only Ropewalk serves this; elsewhere every method is Kind.UNSUPPORTED."""

    async def watch_pulls(self, image: str = "") -> AsyncIterator[PullProgress]:
        """Each change of the pulls under way (of `image`; "": of all), until the caller leaves."""
        pair = structural.pair(PullProgress, pb.PullProgress)
        async for reply in self._stream(_ADMIN, "WatchPulls", pb.WatchPullsRequest(image=image)):
            yield pair.read(reply)

    async def runtimes(self, *, probe: bool = False) -> list[Runtime]:
        """`probe`: not what is known, but what a probe of each finds now."""
        reply = await self._unary(_ADMIN, "ListRuntimes", pb.ListRuntimesRequest(probe=probe), 60.0)
        pair = structural.pair(Runtime, pb.Runtime)
        return [pair.read(runtime) for runtime in reply.runtimes]
