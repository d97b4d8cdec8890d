"""Probes are kept, and asked again while they fail."""

from __future__ import annotations

import asyncio

from ropewalk.runtimes.handler import Level, Probe
from ropewalk.runtimes.health import UNPROBED, Health
from tests.fakes import world


class Handler(world.FakeHandler):
    def __init__(self, *probes: Probe | Exception) -> None:
        super().__init__(world.World())
        self.probes = list(probes)

    async def probe(self) -> Probe:
        said = self.probes.pop(0) if len(self.probes) > 1 else self.probes[0]
        if isinstance(said, Exception):
            raise said
        return said


async def test_what_fails_is_asked_again_until_it_works() -> None:
    works = Probe(Level.WORKS, version="1")
    good, late = Handler(works, Probe(Level.PRESENT)), Handler(Probe(Level.PRESENT), ZeroDivisionError("x"), works)
    health = Health({"good": good, "late": late})
    assert health.probe("good") == UNPROBED
    running = asyncio.create_task(health.run(retry=0.001))
    await health.known(2)
    assert health.probes() == {"good": works, "late": Probe(Level.PRESENT)}
    async with asyncio.timeout(2):
        while not health.probe("late").works:
            await asyncio.sleep(0.001)
    assert len(good.probes) == 1
    running.cancel()


async def test_a_probe_that_raises_does_not_work() -> None:
    health = Health({"x": Handler(ZeroDivisionError("oops"))})
    await health.refresh(["x"])
    assert health.probe("x") == Probe(Level.PRESENT, evidence="its probe failed: oops")


async def test_known_gives_up() -> None:
    await Health({}).known(0.001)
