"""From a configuration to the objects of one daemon, and the order in which they start and end.

Every row is in memory when `Daemon` is made; `start` makes it ready to answer, `begin` starts what goes on beside the
answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import ServiceDescriptor

from ropewalk.admin.service import AdminService
from ropewalk.cri.image_service import ImageService
from ropewalk.cri.runtime_service import RuntimeService
from ropewalk.cri.status import NodeStatus
from ropewalk.daemon import logs, node
from ropewalk.daemon.config import ROOT, Config
from ropewalk.errors import Invalid, RopewalkError
from ropewalk.images.pull import Puller
from ropewalk.images.store import Images
from ropewalk.images.workers import Workers
from ropewalk.linux import cgroup, cgroup_systemd, process
from ropewalk.linux.offload import Offload
from ropewalk.network.network import Network
from ropewalk.pods import placement
from ropewalk.pods.checkpoints import Checkpoints
from ropewalk.pods.containers import Containers
from ropewalk.pods.queues import Queues
from ropewalk.pods.records import Container, Pod
from ropewalk.pods.recovery import Recovery
from ropewalk.pods.sandboxes import Sandboxes
from ropewalk.pods.stats import Stats
from ropewalk.runtimes import handler, registry
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.health import Health
from ropewalk.state.database import Database, lock
from ropewalk.state.store import Table
from ropewalk.storage import usage
from ropewalk.storage.content import Content
from ropewalk.storage.leases import Leases
from ropewalk.storage.snapshotters.directories import DirectorySnapshotter
from ropewalk.wire.pb import admin_pb2, cri_pb2

ROOT_MODE, STATE_MODE = 0o700, 0o711
FLUSH = 5.0  # seconds between attempts to write what a full disk kept in memory
CHECKPOINT_BYTES = 4 << 20  # a write-ahead log larger than this is folded into the database
COLLECT_DELAY = 0.5  # seconds from a removal to the collection, so that one serves many
LOOKUP_PATIENCE = 1.0  # seconds after which a pod's lookup that hangs does not keep others' from being tried
RESTART = 5.0  # seconds until background work that failed is started again

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


class Daemon:
    """Everything of one daemon. Raises RopewalkError if this configuration cannot run here."""

    def __init__(self, config: Config) -> None:
        self.config = config
        make_directories(config)
        self.instance, tag = node.instance(config.root, ROOT)
        self._claim = lock(f"{config.state}/lock")  # the root has the database's
        self.database = Database(f"{config.root}/state.db")
        self.cgroups = cgroup.detect()
        driver = cgroup_systemd.choose(
            config.cgroup_driver, version=self.cgroups.version, booted=cgroup_systemd.is_booted()
        )
        self.cgroups.driver = driver
        self.handlers = registry.build(
            config.runtimes,
            handler.Node(config.state, self.cgroups, config.root, placement.root(self.instance, driver)),
            default=config.default_runtime,
            untrusted=config.untrusted_runtime,
        )
        self.health = Health(
            self.handlers,
            directory=f"{config.state}/probes",
            first=config.default_runtime,
            layout=f"v{self.cgroups.version} {driver}",
        )
        self.network = Network(config.network, instance=self.instance, tag=tag, directory=f"{config.root}/cni")
        self._build_storage()
        self._build_pods()
        self._removed = asyncio.Event()
        self._probing: asyncio.Future[None] | None = None
        self.images.watch(lambda old, new: self._removed.set() if new is None else None)
        self.containers.containers.watch(lambda old, new: self._removed.set() if new is None else None)

    def _build_storage(self) -> None:
        config = self.config
        self.offload = Offload()  # bulk: layers and blobs
        self.lookups = Offload(patience=LOOKUP_PATIENCE)  # what a pod waits for; bulk work must not stand before it
        self.counting = Offload(2, background=True)
        self.archiving = Offload(2)
        self.content = Content(f"{config.root}/content", self.offload)
        self.snapshotter = build_snapshotter(config, self.database, self.offload)
        self.leases = Leases(self.database)
        self.images = Images(self.database, pinned=config.images.pinned)
        self.workers = Workers(config.images.pull_workers)
        self.puller = Puller(config.images, self.images, self.content, self.snapshotter, self.leases, self.workers)
        self.counter = usage.Counter([self.snapshotter], self.counting)

    def _build_pods(self) -> None:
        config, boot_id = self.config, process.boot_id()
        facts = node.read_facts(self.cgroups, node.raise_open_files(), label=config.selinux)
        self.apparmor = AppArmor(enabled=facts.apparmor)
        queues = Queues()
        pods = Table(self.database, "pods", Pod, noun="pod sandbox")
        containers = Table(self.database, "containers", Container, noun="container")
        checkpoints = Checkpoints(
            config.checkpoints,
            containers,
            pods,
            self.handlers,
            self.health,
            self.archiving,
            directory=f"{config.root}/checkpoints",
        )
        self.containers = Containers(
            containers,
            pods,
            queues,
            self.images,
            self.snapshotter,
            self.handlers,
            self.health,
            self.lookups,
            self.apparmor,
            checkpoints,
            node=facts,
            state=config.state,
            boot_id=boot_id,
        )
        names: dict[str, Any] = {"instance": self.instance, "state": config.state, "boot_id": boot_id}
        self.sandboxes = Sandboxes(
            pods,
            self.containers,
            queues,
            self.network,
            self.cgroups,
            self.handlers,
            self.health,
            self.lookups,
            node=facts,
            **names,
        )
        self.recovery = Recovery(
            self.sandboxes,
            self.containers,
            queues,
            self.network,
            self.snapshotter,
            self.cgroups,
            self.handlers,
            **names,
        )
        self.stats = Stats(
            pods, containers, self.cgroups, self.network, self.snapshotter, self.handlers, mountpoint=config.root
        )

    def services(self) -> list[tuple[ServiceDescriptor, object]]:
        """What is served on the socket."""
        status = NodeStatus(self.handlers, self.health, self.network, self.cgroups, self.apparmor, config=self.describe)
        runtime = RuntimeService(self.sandboxes, self.containers, self.stats, self.handlers, self.network, status)
        images = ImageService(
            self.images,
            self.puller,
            lambda: usage.total(self.content, [self.snapshotter]),
            mountpoint=self.config.root,
        )
        admin = AdminService(self.puller, self.handlers, self.health)
        cri = cri_pb2.DESCRIPTOR.services_by_name
        return [
            (cri["RuntimeService"], runtime),
            (cri["ImageService"], images),
            (admin_pb2.DESCRIPTOR.services_by_name["Admin"], admin),
        ]

    def describe(self) -> dict[str, Any]:
        """The configuration as verbose answers show it."""
        shown: dict[str, Any] = msgspec.to_builtins(self.config)
        return shown | {"rootDir": self.config.root, "stateDir": self.config.state}

    def reconfigure(self, config: Config) -> None:
        """Take over the live settings of `config`, which was checked and differs in no other (daemon/reload.py)."""
        logs.setup(config.log)
        self.puller.configure(config.images)
        self.workers.resize(config.images.pull_workers)
        self.images.pin(config.images.pinned)
        self.network.configure(config.network)
        self.config = config

    async def start(self) -> None:
        """Before the socket is bound: what any call relies on."""
        self.recovery.prepare()
        await self.snapshotter.start()
        await self.content.start()
        await self.network.start()

    def begin(self) -> None:
        """Once the socket answers: probes, recovery, upkeep, for as long as the daemon lives."""
        self._probing = asyncio.ensure_future(lasting("probes", self.health.run))
        self._working = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lasting("recovery", self._recover))
            group.create_task(lasting("disk usage", self.counter.run))
            group.create_task(lasting("collection", self._collect))
            group.create_task(lasting("state", self._keep_state))

    async def _recover(self) -> None:
        await self.recovery.run()
        left = await self.puller.sweep()
        if left:
            log.info("removed what cancelled pulls left", extra={"found": left})
        await self.recovery.retry()

    async def _collect(self) -> None:
        """Free what no image, container or pull needs, after each removal."""
        while True:
            await self._removed.wait()
            await asyncio.sleep(COLLECT_DELAY)
            self._removed.clear()
            freed = await self.puller.collect([c.snapshot for c in self.containers.containers])
            if freed.blobs or freed.snapshots:
                log.info("collected", extra={"blobs": len(freed.blobs), "snapshots": len(freed.snapshots)})

    async def _keep_state(self) -> None:
        """Write what a full disk kept back, and fold the write-ahead log in a thread of its own."""
        folding: threading.Thread | None = None
        while True:
            await asyncio.sleep(FLUSH)
            for table in (self.sandboxes.pods, self.containers.containers, self.images.table):
                with contextlib.suppress(RopewalkError):  # still full, and said when it was noticed
                    table.flush()
            if _size(f"{self.database.path}-wal") > CHECKPOINT_BYTES and not (folding and folding.is_alive()):
                folding = threading.Thread(target=fold, args=[self.database], name="checkpoint", daemon=True)
                folding.start()

    async def end_pods(self) -> None:
        """The node goes down: every container gets its stop signal and the grace, and how it ended is recorded. Without
        that, processes that ignore SIGTERM (most that are process 1 of a namespace do) hold the shutdown for 90 s."""
        grace = self.config.shutdown_grace
        if grace and await cgroup_systemd.is_going_down():
            log.info("the node goes down: ending all containers", extra={"seconds": grace})
            for failed in await self.containers.stop_all(grace):
                log.warning("a container does not end", extra={"error": str(failed)})

    async def close(self) -> None:
        """Let go of everything; pods go on running. A probe under way removes what it made: nobody else may come."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self.containers.close()
        await self.sandboxes.close()
        for runtime in self.handlers.values():
            await runtime.close()
        await self.network.close()
        self.database.close()
        workers = (self.offload, self.lookups, self.counting, self.archiving, self.workers)
        await asyncio.gather(*(one.close() for one in workers))


def make_directories(config: Config) -> None:
    """Both directories with their modes: what is in root is root's alone; state can be walked through by containers
    with user namespaces, and holds below pods/ and containers/ what only its owner may enter."""
    modes = {
        config.root: ROOT_MODE,
        f"{config.root}/snapshots": ROOT_MODE,
        config.state: STATE_MODE,
        f"{config.state}/pods": STATE_MODE,
    }
    for path, mode in modes.items():
        try:
            os.makedirs(path, mode=0o755, exist_ok=True)
            os.chmod(path, mode)
        except OSError as error:
            raise Invalid(f"cannot use the directory {path}: {error.strerror}", hint="are you root?") from error


def build_snapshotter(config: Config, database: Database, offload: Offload) -> DirectorySnapshotter:
    module = importlib.import_module(f"ropewalk.storage.snapshotters.{config.snapshotter}")
    made: DirectorySnapshotter = module.Snapshotter(f"{config.root}/snapshots/{config.snapshotter}", database, offload)
    return made


async def lasting(name: str, work: Work) -> None:
    """Background work that a defect of its own does not end: it is logged, and started again."""
    while True:
        try:
            await work()
            return
        except Exception as error:
            log.error("background work failed", extra={"work": name}, exc_info=error)
        await asyncio.sleep(RESTART)


def fold(database: Database) -> None:
    try:
        database.checkpoint()
    except sqlite3.Error as error:
        log.warning("the write-ahead log stays", extra={"error": str(error)})


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
