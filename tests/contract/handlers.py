"""Which handlers the suite runs over, and how each is made and probed.

All built-in types with their defaults, and further ones that are worth the same tests. One that does not work on this
machine is skipped with what its probe said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ropewalk.runtimes import health, registry
from ropewalk.runtimes.handler import Capabilities, Handler, Probe
from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Place

Maker = Callable[[Place], Handler]


def built_in(name: str) -> Maker:
    def make(place: Place) -> Handler:
        found = registry.find(name)
        assert found is not None
        return found.Handler(found.Config(), place.node, name=name)

    return make


HANDLERS: dict[str, Maker] = {
    **{name: built_in(name) for name in registry.built_in()},
    "crun-conmon": lambda place: crun.Handler(crun.Config(monitor="conmon"), place.node),
}


class Known(NamedTuple):
    probe: Probe
    capabilities: Capabilities


KNOWN: dict[str, Known] = {}  # each is probed once per process


async def ready(name: str, place: Place) -> Handler:
    """The handler, knowing what its probe found; skips the test if it does not work here."""
    handler = HANDLERS[name](place)
    if name not in KNOWN:
        probe = await health.probe(handler)
        KNOWN[name] = Known(probe, handler.capabilities)
    known = KNOWN[name]
    if not known.probe.works:
        pytest.skip(f"{name} does not work here ({known.probe.level.value}): {known.probe.evidence}")
    await handler.prepare()
    handler.recall(known.probe, known.capabilities)
    return handler
