"""What the pulls under way have done so far, for people who wait (ropewalk.v1.Admin, WatchPulls)."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator

from msgspec import Struct, field

from ropewalk.images.jobs import LayerPlan

PACE = 0.1  # seconds between two reports of one pull


class LayerState(enum.Enum):
    WAITING = "waiting"
    FETCHING = "fetching"  # which is also unpacking: one pass
    UNPACKED = "unpacked"
    DONE = "done"


class LayerProgress(Struct, frozen=True):
    digest: str
    total: int  # compressed bytes
    fetched: int
    state: LayerState


class PullProgress(Struct, frozen=True):
    image: str
    layers: list[LayerProgress] = field(default_factory=list)
    done: bool = False
    error: str = ""


class Track:
    """One pull. Layers are looked up by chain id, because pulls share them."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.plans: list[LayerPlan] = []


class Board:
    """Who pulls what. The puller writes, any number of watchers read."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._layers: dict[str, tuple[LayerState, int]] = {}
        self._watchers: list[asyncio.Queue[PullProgress]] = []
        self._changed = asyncio.Event()

    def begin(self, image: str) -> Track:
        track = Track(image)
        self._tracks.append(track)
        self._changed.set()
        return track

    def plan(self, track: Track, plans: list[LayerPlan]) -> None:
        track.plans = plans
        self._changed.set()

    def layer(self, chain_id: str, state: LayerState, fetched: int) -> None:
        self._layers[chain_id] = state, fetched
        self._changed.set()

    def end(self, track: Track, error: str = "") -> None:
        """The pull's last report goes to every watcher, however slow."""
        last = self._report(track, done=True, error=error)
        self._tracks.remove(track)
        used = {plan.chain_id for other in self._tracks for plan in other.plans}
        for plan in track.plans:
            if plan.chain_id not in used:
                self._layers.pop(plan.chain_id, None)
        for watcher in self._watchers:
            watcher.put_nowait(last)
        self._changed.set()

    def pulls(self) -> list[PullProgress]:
        """The pulls under way."""
        return [self._report(track) for track in self._tracks]

    def _report(self, track: Track, *, done: bool = False, error: str = "") -> PullProgress:
        layers = []
        for plan in track.plans:
            state, fetched = self._layers.get(plan.chain_id, (LayerState.WAITING, 0))
            layers.append(LayerProgress(plan.descriptor.digest, plan.descriptor.size, fetched, state))
        return PullProgress(track.image, layers, done, error)

    async def watch(self, image: str = "") -> AsyncIterator[PullProgress]:
        """Every change of every pull (of `image` alone if given), at most one per PACE, and each pull's end."""
        ended: asyncio.Queue[PullProgress] = asyncio.Queue()
        self._watchers.append(ended)
        seen: dict[str, PullProgress] = {}
        try:
            while True:
                reports = [*self.pulls(), *(ended.get_nowait() for _ in range(ended.qsize()))]
                for report in reports:
                    if image in ("", report.image) and seen.get(report.image) != report:
                        seen[report.image] = report
                        yield report
                await asyncio.sleep(PACE)
                if not self._tracks and ended.empty():
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._watchers.remove(ended)
