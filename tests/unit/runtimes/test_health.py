"""Probes are kept, over restarts too, and asked again when something changed or while they fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes import health as module
from ropewalk.runtimes.handler import Config, Handler, Level, Probe
from ropewalk.runtimes.health import UNPROBED, Health
from tests.fakes import world

WORKS = Probe(Level.WORKS, version="1", evidence="ran")
FAILS = Probe(Level.PRESENT, evidence="no /dev/kvm", advice="use another")


class Fake(world.FakeHandler):
    """Says one probe after the other, the last one for ever; `found` are capabilities that a probe finds."""

    def __init__(self, *probes: Probe | Exception, programs: tuple[str, ...] = ()) -> None:
        super().__init__(world.World())
        self.probes = list(probes)
        self.programs = programs
        self.asked = self.prepared = 0

    async def prepare(self) -> None:
        self.prepared += 1

    async def probe(self) -> Probe:
        self.asked += 1
        said = self.probes.pop(0) if len(self.probes) > 1 else self.probes[0]
        if isinstance(said, Exception):
            raise said
        self.capabilities = replace(self.capabilities, user_namespaces=True)
        return said


@contextlib.asynccontextmanager
async def running(health: Health, handlers: Mapping[str, Handler]) -> AsyncIterator[Health]:
    task = asyncio.create_task(health.run(watch=0.001))
    await health.known(handlers, 20)
    yield health
    task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_fails_is_asked_again_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH", 0.0)
    handlers = {"good": Fake(WORKS), "late": Fake(FAILS, ZeroDivisionError("x"), WORKS)}
    health = Health(handlers)
    health._waits = dict.fromkeys(handlers, 0.0)
    assert health.probe("good") == UNPROBED
    async with running(health, handlers):
        await until(lambda: health.probe("late").works)
    assert handlers["good"].asked == 1


async def test_what_does_not_end_gets_longer_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to PATIENCE; what ends works from then on."""
    given = []

    async def probe(handler: Handler, deadline: float) -> Probe:
        given.append(deadline)
        return WORKS if deadline > 40 else FAILS

    monkeypatch.setattr(module, "probe", probe)
    health = Health({"x": Fake(FAILS)})
    while not health.probe("x").works:
        await health.refresh(["x"])
    assert given == [Fake.probe_seconds, 20, 40, module.PATIENCE]


async def test_a_handler_that_boots_machines_has_longer_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    async def probe(handler: Handler, deadline: float) -> Probe:
        given.append(deadline)
        return WORKS

    monkeypatch.setattr(module, "probe", probe)
    slow = Fake(WORKS)
    slow.probe_seconds = 75.0
    await Health({"x": slow}).refresh(["x"])
    assert given == [75.0]


async def test_what_fails_is_asked_ever_more_rarely() -> None:
    health = Health({"x": Fake(FAILS)})
    waits = []
    for _ in range(8):
        await health.refresh(["x"])
        waits.append(health._waits["x"])
    assert waits[:3] == [20, 40, 80]
    assert waits[-1] == module.LONGEST
    assert not health._is_due("x")
    health._due["x"] = time.monotonic()
    assert health._is_due("x")


async def test_a_probe_that_raises_does_not_work() -> None:
    health = Health({"x": Fake(ZeroDivisionError("oops"))})
    await health.refresh(["x"])
    assert health.probe("x") == Probe(Level.PRESENT, evidence="its probe failed: oops")


async def test_a_handler_that_does_not_work_runs_no_pod() -> None:
    health = Health({"x": Fake(FAILS), "y": Fake(WORKS)})
    await health.refresh(["x", "y"])
    health.require("y")
    with pytest.raises(RopewalkError) as caught:
        health.require("x")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert str(caught.value) == "runtime handler 'x' does not work on this node: no /dev/kvm; use another"


async def test_known_gives_up() -> None:
    await Health({"x": Fake(WORKS)}).known(["x"], 0.001)


async def test_the_first_one_is_not_kept_waiting() -> None:
    order: list[str] = []

    class Noted(Fake):
        async def prepare(self) -> None:
            order.append(self.name)

    handlers = {name: Noted(WORKS) for name in ("slow", "first")}
    for name, one in handlers.items():
        one.name = name
    async with running(Health(handlers, first="first"), handlers):
        assert order == ["first", "slow"]


# Over restarts


async def test_a_restart_does_not_pay_for_what_is_known(tmp_path: Path) -> None:
    for asked in (1, 0):
        fake = Fake(WORKS)
        handlers = {"x": fake}
        async with running(Health(handlers, directory=str(tmp_path / "probes")), handlers) as health:
            assert (fake.asked, fake.prepared) == (asked, 1)
            assert health.probe("x") == WORKS
            assert fake.capabilities.user_namespaces
    assert os.listdir(tmp_path / "probes") == ["x.json"]


async def test_a_known_handler_that_cannot_be_prepared_keeps_nobody_waiting(tmp_path: Path) -> None:
    class Broken(Fake):
        async def prepare(self) -> None:
            await super().prepare()
            if self.prepared <= broken:
                raise OSError("no room")

    for broken, asked in ((0, 1), (1, 1), (2, 0)):
        handlers = {"broken": Broken(WORKS), "other": Fake(WORKS)}
        async with running(Health(handlers, directory=str(tmp_path)), handlers) as health:
            assert handlers["broken"].asked == asked
            assert health.probe("other").works
            assert health.probe("broken").works == (broken < 2)


@pytest.mark.parametrize("change", ["program", "config", "kernel", "boot", "cgroups", "torn"])
async def test_what_it_depends_on_is_probed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    program = tmp_path / "program"
    program.write_text("1")
    layout = "v2 cgroupfs"
    for asked in (1, 1, 0):
        fake = Fake(WORKS, programs=(str(program),))
        handlers = {"x": fake}
        if asked and (tmp_path / "probes").exists():
            match change:
                case "program":
                    program.write_text("22")
                case "config":
                    fake.config = Config(pod_annotations=["x"])
                case "kernel":
                    monkeypatch.setattr(platform, "release", lambda: "9.9")
                case "boot":
                    monkeypatch.setattr(process, "boot_id", lambda: "another")
                case "cgroups":
                    layout = "v2 systemd"
                case "torn":
                    (tmp_path / "probes/x.json").write_text("{")
        elif change == "config" and not asked:
            fake.config = Config(pod_annotations=["x"])
        async with running(Health(handlers, directory=str(tmp_path / "probes"), layout=layout), handlers):
            assert fake.asked == asked


async def test_a_program_that_is_replaced_is_probed_while_the_daemon_runs(tmp_path: Path) -> None:
    program = tmp_path / "program"
    fake = Fake(FAILS, WORKS, programs=(str(program),))
    handlers = {"x": fake}
    async with running(Health(handlers), handlers) as health:
        assert not health.probe("x").works
        program.write_text("")
        await until(lambda: health.probe("x").works)


async def test_what_does_not_work_any_more_is_forgotten(tmp_path: Path) -> None:
    health = Health({"x": Fake(WORKS, FAILS)}, directory=str(tmp_path))
    await health.refresh(["x"])
    assert os.listdir(tmp_path) == ["x.json"]
    await health.refresh(["x"])
    assert os.listdir(tmp_path) == []


async def test_a_daemon_that_ends_waits_for_what_each_probe_removes() -> None:
    """The first one that is through must not let the others be forgotten: nobody else would remove what they made."""
    begun, removed = asyncio.Event(), []

    class Slow(Fake):
        async def probe(self) -> Probe:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.02)
                removed.append(self)
            raise AssertionError

    class Quick(Fake):
        async def probe(self) -> Probe:
            await asyncio.Event().wait()
            raise AssertionError

    ending = asyncio.create_task(Health({"quick": Quick(WORKS), "slow": Slow(WORKS)}).run())
    await begun.wait()
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert len(removed) == 1
