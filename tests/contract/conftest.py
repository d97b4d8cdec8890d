"""Fixtures of the suites: a place of its own for each test, each handler that works here in turn, and each monitor, of
which ropewalk-monitor also runs as a build that checks itself (AddressSanitizer, UBSan)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import hatch_build
from ropewalk.linux import orphans, process
from ropewalk.runtimes.handler import Handler
from ropewalk.runtimes.monitors import choice, own
from ropewalk.runtimes.monitors.monitor import Monitor
from tests.contract import handlers
from tests.contract.benches import Bench
from tests.fakes.boxes import Place
from tests.fakes.monitored import Maker, Script
from tests.fakes.shim import Behaviour

SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", '-DVERSION="sanitized"')


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """The process reaps what its children leave, as the daemon does."""
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    reaper = orphans.Orphans()
    place = Place(tmp_path)
    yield place
    await place.close()
    with contextlib.suppress(TimeoutError):  # a child of somebody else's may live on
        async with asyncio.timeout(1):
            while any(
                (seen := process.stat(pid)) is not None and seen.state == "Z" for pid in process.children(os.getpid())
            ):
                await asyncio.sleep(0.01)
    reaper.close()


@pytest.fixture(params=sorted(handlers.HANDLERS))
def handler_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def handler(handler_name: str, place: Place) -> AsyncIterator[Handler]:
    """Whatever a test deleted is gone without a trace; what it left is deleted by sweep, the same way."""
    handler = await handlers.ready(handler_name, place)
    yield handler
    await handler.sweep(set())
    await handler.close()
    assert place.found() == []


@pytest.fixture(scope="session")
def sanitized(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("sanitized") / own.NAME
    source = str(repository / hatch_build.SOURCE)
    subprocess.run(["cc", *hatch_build.WARNINGS, "-Werror", *SANITIZERS, "-o", str(program), source], check=True)
    return str(program)


@pytest.fixture
async def bench(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Whatever a test left is swept, and nothing is left then."""
    bench = Bench(place, tmp_path)
    yield bench
    monkeypatch.undo()
    if bench.program.name:
        bench.behave(Behaviour())
    for handler in bench.handlers:
        await handler.sweep(set())
        await handler.close()
    assert place.found() == []
    if bench.program.name:
        assert [pid for pid in process.find(os.fsencode(bench.program)) if process.command_line(pid)] == []


@pytest.fixture(params=[own.NAME, "sanitized", "conmon"])
def monitor(request: pytest.FixtureRequest, tmp_path: Path) -> Monitor:
    setting: str = request.getfixturevalue("sanitized") if request.param == "sanitized" else request.param
    fake: Any = type("Cgroups", (), {"controllers": lambda self: frozenset()})()
    for name in ("exits", "consoles"):
        (tmp_path / name).mkdir()
    return choice.make(setting, exits=str(tmp_path / "exits"), sockets=str(tmp_path / "consoles"), cgroups=fake)


@pytest.fixture
async def script(monitor: Monitor, tmp_path: Path) -> AsyncIterator[Maker]:
    """`script(payload, files={}, **options of Launch)`; no process of it outlives the test."""
    reaper = orphans.Orphans()
    made: list[Script] = []

    def make(payload: str, files: dict[str, str] | None = None, **options: Any) -> Script:
        made.append(Script(monitor, tmp_path, payload, files or {}, **options))
        return made[-1]

    yield make
    for one in made:
        with contextlib.suppress(ProcessLookupError):
            if one.task.pid:
                os.killpg(one.task.pid, signal.SIGKILL)
        for pid in process.find(os.fsencode(one.bundle), os.fsencode(f"--root={one.bundle}")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    reaper.close()
