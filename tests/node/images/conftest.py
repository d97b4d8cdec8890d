"""A private image store in a temporary root, and registries for it to pull from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ropewalk.images import pull, store, workers
from ropewalk.images.descriptor import Platform
from ropewalk.linux import mount, offload
from ropewalk.state.database import Database
from ropewalk.storage import content, leases
from ropewalk.storage.snapshotter import SnapshotKind
from ropewalk.storage.snapshotters import overlay
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.oci import File


class Store:
    """Everything that daemon/wiring.py would put together for images, on one root."""

    def __init__(self, root: Path, *, limit: int = 2, stall: float = 30.0) -> None:
        self.root = root
        self.hosts = root / "certs.d"
        self.hosts.mkdir(parents=True, exist_ok=True)
        self.database = Database(str(root / "state.db"))
        self.offload = offload.Offload()
        self.content = content.Content(str(root / "content"), self.offload)
        self.snapshotter = overlay.Snapshotter(str(root / "snapshots"), self.database, self.offload)
        self.leases = leases.Leases(self.database)
        self.images = store.Images(self.database)
        self.workers = workers.Workers(limit)
        config = pull.Config(
            registry_hosts=[str(self.hosts)], stall_timeout=stall, max_layer_bytes=64 << 20, max_layer_files=1000
        )
        self.puller = pull.Puller(
            config,
            self.images,
            self.content,
            self.snapshotter,
            self.leases,
            self.workers,
            platform=Platform("linux", "amd64", "v1"),
        )

    async def start(self) -> list[str]:
        await self.content.start()
        await self.snapshotter.start()
        return await self.puller.sweep()

    async def close(self) -> None:
        await self.workers.close()
        await self.content.close()
        await self.snapshotter.close()
        await self.offload.close()
        self.database.close()

    def left_behind(self) -> list[str]:
        """What no finished pull leaves: ingests, snapshots being unpacked, leases."""
        left = os.listdir(self.root / "content/ingest")
        left += [info.name for info in self.snapshotter.list() if info.kind is SnapshotKind.ACTIVE]
        return left + [lease.id for lease in self.leases.live()]

    async def undone(self) -> None:
        """Until nothing is left behind: a failed or cancelled pull's other layers are given up in the background."""
        async with asyncio.timeout(30):
            while self.left_behind() or self.puller.progress():
                await asyncio.sleep(0.01)

    async def mounted(self, image: store.Image, where: Path) -> Path:
        """The image's root file system, writable, at `where`; unmount it."""
        (wanted,) = await self.snapshotter.prepare(f"test-{where.name}", image.chain_id)
        where.mkdir()
        if wanted.type == "bind":
            mount.bind(wanted.source, str(where))
        else:
            mount.overlay(
                str(where), layers=wanted.layers, upper=wanted.upper, work=wanted.work, options=wanted.options
            )
        return where


class Gate:
    """Holds a blob back after its first bytes, until it is opened."""

    def __init__(self, fake: fakes.Registry, digest: str) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._fake, self._digest = fake, digest
        fake.script = self._serve

    def _serve(self, request: fakes.Request, answer: fakes.Answer) -> bool:
        if not request.path.endswith(self._digest):
            return False
        blob = self._fake.blobs[self._digest]
        answer.send(200, blob[: len(blob) // 2], {"Content-Length": str(len(blob))})
        answer._handler.wfile.flush()
        self._loop.call_soon_threadsafe(self.reached.set)
        self._fake.stopped.wait(30)
        return answer.cut()

    def open(self) -> None:
        self._fake.script = lambda request, answer: False


def image_of(name: str, size: int = 3_000_000, below: list[oci.Layer] | None = None) -> oci.Image:
    return oci.Image([*(below or []), oci.layer([File(name, os.urandom(size))], "")])


Reopen = Callable[..., Awaitable[Store]]


@pytest.fixture
async def reopen(tmp_path: Path) -> AsyncIterator[Reopen]:
    """Each call closes the store and opens it again on the same root, as a restarted daemon does."""
    running: list[Store] = []

    async def open(root: Path = tmp_path / "root", **settings: float) -> Store:
        if running:
            await running.pop().close()
        root.mkdir(exist_ok=True)
        running.append(Store(root, **settings))  # type: ignore[arg-type]
        await running[-1].start()
        return running[-1]

    yield open
    for each in running:
        await each.close()
    await asyncio.sleep(0)


@pytest.fixture
async def images(reopen: Reopen) -> Store:
    return await reopen()


@pytest.fixture
def fake() -> Iterator[fakes.Registry]:
    with fakes.running() as registry:
        yield registry


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A path to mount on; unmounted afterwards."""
    yield tmp_path / "mounted"
    mount.umount_all(str(tmp_path / "mounted"))
