"""ropewalk.v1.Admin over a socket, with the typed client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from ropewalk.admin.service import AdminService
from ropewalk.client import admin
from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.progress import LayerProgress, LayerState, PullProgress
from ropewalk.runtimes.handler import Level, Probe
from ropewalk.runtimes.health import Health
from ropewalk.runtimes.registry import Handlers
from ropewalk.wire import grpc as wire
from ropewalk.wire.pb import admin_pb2
from tests.fakes import world
from tests.unit.cri.conftest import broken

LAYER = LayerProgress("sha256:1", total=10, fetched=4, state=LayerState.FETCHING)


class Puller:
    """Two reports, then the end of the pull."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def watch(self, image: str = "") -> AsyncIterator[PullProgress]:
        self.asked.append(image)
        yield PullProgress("docker.io/library/x:1", [LAYER])
        yield PullProgress("docker.io/library/x:1", done=True, error="no")


@pytest.fixture
def puller() -> Puller:
    return Puller()


@pytest.fixture
async def client(tmp_path: Path, puller: Puller) -> AsyncIterator[admin.Client]:
    works, fails = world.FakeHandler(world.World()), world.FakeHandler(world.World())
    broken(fails, Probe(Level.PRESENT, evidence="no program", advice="install it"))
    handlers = Handlers({"crun": works, "runsc": fails}, "crun")
    health = Health(handlers)
    await health.refresh(list(handlers))
    service = AdminService(cast(Any, puller), handlers, health)
    server = wire.Server([(admin_pb2.DESCRIPTOR.services_by_name["Admin"], service)])
    await server.start(str(tmp_path / "s"))
    async with admin.Client(str(tmp_path / "s")) as client:
        yield client
    await server.stop(0)


async def test_pulls_are_watched(client: admin.Client, puller: Puller) -> None:
    seen = [progress async for progress in client.watch_pulls("x:1")]
    layer = admin.LayerProgress("sha256:1", 10, 4, "fetching")
    assert seen == [
        admin.PullProgress("docker.io/library/x:1", [layer]),
        admin.PullProgress("docker.io/library/x:1", done=True, error="no"),
    ]
    assert puller.asked == ["x:1"]


async def test_runtimes_and_whether_they_work(client: admin.Client) -> None:
    crun, runsc = await client.runtimes()
    assert (crun.name, crun.works, crun.default) == ("crun", True, True)
    assert (runsc.works, runsc.evidence, runsc.advice) == (False, "no program", "install it")


async def test_an_endpoint_without_it(tmp_path: Path) -> None:
    server = wire.Server([])
    await server.start(str(tmp_path / "t"))
    async with admin.Client(str(tmp_path / "t")) as client:
        with pytest.raises(RopewalkError) as caught:
            await client.runtimes()
    await server.stop(0)
    assert caught.value.kind is Kind.UNSUPPORTED
