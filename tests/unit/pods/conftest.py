"""A daemon's pod layer over a node in memory; `restart` is a kill -9 and a new daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk.images.store import Image
from ropewalk.linux import namespaces
from ropewalk.linux.offload import Offload
from ropewalk.pods import checkpoints, files
from ropewalk.pods.checkpoints import Checkpoints
from ropewalk.pods.containers import Containers
from ropewalk.pods.queues import Queues
from ropewalk.pods.records import Container, Pod
from ropewalk.pods.recovery import Recovery
from ropewalk.pods.sandboxes import Sandboxes
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.handler import Level, Node, Probe
from ropewalk.runtimes.health import Health
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.runtimes.registry import Handlers
from ropewalk.spec.container import ContainerMetadata, ContainerSpec
from ropewalk.spec.image import ImageConfig, ImageSpec
from ropewalk.spec.pod import NamespaceMode, PodSandboxMetadata, PodSpec
from ropewalk.state.database import Database
from ropewalk.state.store import Table
from tests.fakes.world import FakeHandler, FakeNetwork, FakeSnapshotter, World

BOX = Image(
    id="sha256:i",
    names={"docker.io/library/box:1": "sha256:m"},
    documents=[],
    layers=[],
    size=1,
    config=ImageConfig(cmd=["sleep", "1"]),
)


class FakeImages:
    def find(self, name: str) -> Image | None:
        return BOX if name in ("box", BOX.id) else None


class FakeCgroups:
    driver = "cgroupfs"

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.present: list[str] = []

    def expect_move(self) -> None:
        """Nothing is moved here."""

    async def remove(self, path: str) -> None:
        """Nothing is made, so nothing is left."""

    async def kill(self, path: str) -> None:
        self.killed.append(path)

    def exists(self, path: str) -> bool:
        return False

    def list(self, prefix: str) -> list[str]:
        return [path for path in self.present if path.startswith(f"{prefix}/")]


class Daemon:
    """The pod layer of one daemon."""

    def __init__(self, world: World, database: Database, state: Path, boot_id: str, name: str, *, probed: bool) -> None:
        self.database = database
        self.handler = name
        pods = Table(database, "pods", Pod, noun="pod sandbox")
        records = Table(database, "containers", Container, noun="container")
        queues, network, snapshotter = Queues(), FakeNetwork(world), FakeSnapshotter(world)
        self.cgroups = FakeCgroups()
        cgroups: Any = self.cgroups
        fake = FakeHandler(world)
        fake.name = name
        handlers = Handlers({name: fake}, default=name, node=Node(str(state), cgroups))
        self.health = Health(handlers)
        if probed:
            self.probed()
        images: Any = FakeImages()
        allowed = checkpoints.Config(restore_from=(str(state / "kubelet"),))
        place: dict[str, Any] = {"state": str(state), "boot_id": boot_id}
        self.containers = Containers(
            records,
            pods,
            queues,
            images,
            snapshotter,
            handlers,
            self.health,
            Offload(),
            AppArmor(enabled=False),
            Checkpoints(allowed, records, pods, handlers, self.health, Offload(), directory=str(state / "checkpoints")),
            node=NodeFacts(),
            **place,
        )
        wire: Any = network
        self.sandboxes = Sandboxes(
            pods,
            self.containers,
            queues,
            wire,
            cgroups,
            handlers,
            self.health,
            Offload(),
            node=NodeFacts(),
            instance="ropewalk-test",
            **place,
        )
        self.recovery = Recovery(
            self.sandboxes,
            self.containers,
            queues,
            wire,
            snapshotter,
            cgroups,
            handlers,
            instance="ropewalk-test",
            **place,
        )

    def probed(self) -> None:
        self.health.note(self.handler, Probe(Level.WORKS))

    async def close(self) -> None:
        await self.sandboxes.close()
        await self.containers.close()


class Bench:
    """World and database outlive the daemon."""

    def __init__(self, tmp_path: Path) -> None:
        self.world = World()
        self._path = tmp_path
        self._database = Database(str(tmp_path / "state.db"))
        self.boot_id = "boot-1"
        self.handler = "crun"  # the only one that is configured
        self.daemon = self._new()

    def _new(self, *, probed: bool = True) -> Daemon:
        return Daemon(self.world, self._database, self._path, self.boot_id, self.handler, probed=probed)

    async def restart(self, *, adopt: bool = True, probed: bool = True) -> Daemon:
        """Kill -9: tasks vanish without undoing anything. Then a new daemon."""
        await self.daemon.close()
        self._database.close()
        self._database = Database(str(self._path / "state.db"))
        self.daemon = self._new(probed=probed)
        self.daemon.recovery.prepare()
        if adopt:
            await self.daemon.recovery.run()
        return self.daemon

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the kubelet wants checkpoints."""
    found = tmp_path / "kubelet"
    found.mkdir()
    return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Kernel calls of the pod's own files and namespaces are left out; everything else is real."""
    monkeypatch.setattr(files, "write", lambda *_: None)
    monkeypatch.setattr(files, "remove", lambda state, id: None)
    for name in ("make", "unpin", "write_sysctls"):
        monkeypatch.setattr(namespaces, name, lambda *_, **__: None)
    monkeypatch.setattr(namespaces, "is_pinned", lambda _: True)
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def pod_spec(name: str = "web", *, attempt: int = 0, **fields: Any) -> PodSpec:
    spec = PodSpec(
        metadata=PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default", attempt=attempt),
        hostname=name,
        log_directory="/var/log/pods/x",
        **fields,
    )
    return with_pid(spec, NamespaceMode.CONTAINER)


def with_pid(spec: PodSpec, mode: NamespaceMode) -> PodSpec:
    options = replace(spec.namespaces, pid=mode)
    context = replace(spec.linux.security_context, namespace_options=options)
    return replace(spec, linux=replace(spec.linux, security_context=context))


def container_spec(name: str = "c", *, attempt: int = 0, image: str = "box", **fields: Any) -> ContainerSpec:
    spec = ContainerSpec(
        metadata=ContainerMetadata(name=name, attempt=attempt), image=ImageSpec(image=image), log_path="c.log", **fields
    )
    options = replace(spec.security.namespace_options, pid=NamespaceMode.CONTAINER)
    return replace(spec, linux=replace(spec.linux, security_context=replace(spec.security, namespace_options=options)))


class Gate:
    """A hook that holds one place until it is opened."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, where: str) -> None:
        if where == self.where:
            self.reached.set()
            await self.opened.wait()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
