"""ropewalk.v1.Admin: what the CRI cannot say."""

# ruff: noqa: N802 (the methods have the service's names)

from __future__ import annotations

from collections.abc import AsyncIterator

from ropewalk.images.progress import PullProgress
from ropewalk.images.pull import Puller
from ropewalk.runtimes.health import Health
from ropewalk.runtimes.registry import Handlers
from ropewalk.wire.pb import admin_pb2 as pb

FIRST_PROBE = 20.0  # seconds that ListRuntimes waits for the first probes after the start


class AdminService:
    """The methods that the `ropewalk` command calls beside the CRI's."""

    def __init__(self, puller: Puller, handlers: Handlers, health: Health) -> None:
        self._puller = puller
        self._handlers = handlers
        self._health = health

    async def WatchPulls(self, request: pb.WatchPullsRequest) -> AsyncIterator[pb.PullProgress]:
        async for progress in self._puller.watch(request.image):
            yield translated(progress)

    async def ListRuntimes(self, request: pb.ListRuntimesRequest) -> pb.ListRuntimesResponse:
        if request.probe:
            await self._health.refresh(self._handlers)
        await self._health.known(self._handlers, FIRST_PROBE)
        return pb.ListRuntimesResponse(
            runtimes=[
                pb.Runtime(
                    name=name,
                    works=probe.works,
                    version=probe.version,
                    evidence=probe.evidence,
                    advice=probe.advice,
                    default=name == self._handlers.default,
                    level=probe.level.value,
                    boundary=self._handlers[name].capabilities.boundary.value,
                )
                for name, probe in sorted(self._health.probes().items())
            ]
        )


def translated(progress: PullProgress) -> pb.PullProgress:
    return pb.PullProgress(
        image=progress.image,
        layers=[
            pb.LayerProgress(digest=layer.digest, total=layer.total, fetched=layer.fetched, state=layer.state.value)
            for layer in progress.layers
        ],
        done=progress.done,
        error=progress.error,
    )
