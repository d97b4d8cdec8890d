"""Whether each runtime handler works on this node: its last probe, asked again while it fails.

Status and `ropewalk runtimes` are served from what is kept here; a probe costs processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from ropewalk.runtimes.handler import Handler, Level, Probe

DEADLINE = 20.0  # seconds for one probe; a platform that hangs does not work
RETRY = 10.0  # seconds until handlers that do not work are asked again: a missing program may have been installed
UNPROBED = Probe(Level.PRESENT, advice="it is still being probed; ask again")

log = logging.getLogger(__name__)


class Health:
    """The last probe of each handler. `run` belongs to a task of the daemon."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._probes: dict[str, Probe] = {}
        self._known = asyncio.Event()

    def probe(self, name: str) -> Probe:
        """What the handler's last probe saw."""
        return self._probes.get(name, UNPROBED)

    def probes(self) -> dict[str, Probe]:
        return {name: self.probe(name) for name in self._handlers}

    async def known(self, timeout: float) -> None:
        """Wait until every handler was probed once, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._known.wait()
        except TimeoutError:
            return

    async def run(self, retry: float = RETRY) -> None:
        """Probe all, then every `retry` seconds those that do not work, until cancelled."""
        await self.refresh(list(self._handlers))
        self._known.set()
        while True:
            await asyncio.sleep(retry)
            await self.refresh([name for name in self._handlers if not self.probe(name).works])

    async def refresh(self, names: list[str]) -> None:
        probes = await asyncio.gather(*(_probe(self._handlers[name]) for name in names))
        for name, probe in zip(names, probes, strict=True):
            if probe != self._probes.get(name):
                level = logging.INFO if probe.works else logging.WARNING
                facts = {"handler": name, "state": probe.level.value, "version": probe.version}
                log.log(level, "probed", extra=facts | {"evidence": probe.evidence, "advice": probe.advice})
            self._probes[name] = probe


async def _probe(handler: Handler) -> Probe:
    try:
        async with asyncio.timeout(DEADLINE):
            return await handler.probe()
    except TimeoutError:
        return Probe(Level.PRESENT, evidence=f"its probe did not end within {DEADLINE:.0f} s")
    except Exception as error:
        log.warning("a probe failed", extra={"handler": handler.name}, exc_info=error)
        return Probe(Level.PRESENT, evidence=f"its probe failed: {error}")
