"""Which handlers the suite runs over, and how each is made and probed.

All built-in types with their defaults, and further ones that are worth the same tests. One that does not work on this
machine is skipped with what its probe said.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from ropewalk.linux import spawn
from ropewalk.runtimes import health, registry
from ropewalk.runtimes.handler import Capabilities, Handler, Probe
from ropewalk.runtimes.handlers import crun, runsc, shim
from tests.fakes.boxes import Place
from tools import gvisor, shims

Maker = Callable[[Place], Handler]


def built_in(name: str) -> Maker:
    """A program that the daemon would not find may be in the developer's PATH."""

    def make(place: Place) -> Handler:
        found = registry.find(name)
        assert found is not None
        config = found.Config()
        program: str = getattr(config, "path", "")
        if program and shutil.which(program, path=spawn.PATH) is None and (own := shutil.which(program)):
            config = msgspec.convert({"path": own}, found.Config)
        return found.Handler(config, place.node, name=name)

    return make


def by_shim(program: Path) -> Maker:
    return lambda place: shim.Handler(shim.Config(path=str(program)), place.node)


SHIMS = {"shim": shims.find(), "newer-shim": shims.newer()}
HANDLERS: dict[str, Maker] = {
    **{name: built_in(name) for name in registry.built_in()},
    "runsc-newer": lambda place: runsc.Handler(runsc.Config(path=gvisor.found()), place.node, name="newer"),
    "crun-conmon": lambda place: crun.Handler(crun.Config(monitor="conmon"), place.node),
    **{name: by_shim(program) for name, program in SHIMS.items() if program is not None},
}


class Known(NamedTuple):
    probe: Probe
    capabilities: Capabilities


KNOWN: dict[str, Known] = {}  # each is probed once per process


def needs(handler: Handler, capability: str) -> None:
    """Skip a test of what this handler says that it does not do; that it refuses is a test of its own."""
    if not getattr(handler.capabilities, capability):
        pytest.skip(f"{handler.name} has no {capability}")


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
