"""PullImage: resolve in one worker, all layers at once in others, then one durable row.

A layer has one flight for all images that share it (by chain id) and a blob one transfer (by digest). Nothing is
visible before it is right: a blob by its commit, a snapshot by its own, the image by its row, in this order. A pull
whose last caller left is cancelled; layers that were whole by then stay for the next try.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import weakref
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from ropewalk import ids, singleflight
from ropewalk.errors import Kind, NotFound, RopewalkError
from ropewalk.images import jobs, platforms, reference, store
from ropewalk.images.descriptor import Platform
from ropewalk.images.progress import Board, LayerState, PullProgress, Track
from ropewalk.images.store import Image, Images, Layer
from ropewalk.images.workers import Workers
from ropewalk.spec.image import AuthConfig
from ropewalk.storage import gc
from ropewalk.storage.content import Content
from ropewalk.storage.leases import Leases
from ropewalk.storage.snapshotter import SnapshotKind, Snapshotter, Usage

log = logging.getLogger(__name__)

KEY = "layer-"  # keys of snapshots that are being unpacked begin with this


class Config(Struct, frozen=True):
    """[images]. A pull that is under way when they change goes on with what it has read of them."""

    registry_hosts: Annotated[
        list[str],
        Meta(
            description="directories with <registry>/hosts.toml: mirrors, certificates; the first wins",
            extra={"live": True},
        ),
    ] = field(default_factory=lambda: ["/etc/containerd/certs.d"])
    pull_workers: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="processes that fetch and unpack layers; 0: one more than there are CPUs",
            extra={"live": True},
        ),
    ] = 0
    stall_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="seconds without a byte from a registry before it counts as gone",
            extra={"live": True},
        ),
    ] = 30.0
    max_layer_bytes: Annotated[
        int, Meta(gt=0, description="most bytes that one layer may unpack to", extra={"live": True})
    ] = 128 << 30
    max_layer_files: Annotated[
        int, Meta(gt=0, description="most files that one layer may hold", extra={"live": True})
    ] = 4_000_000
    max_layer_ratio: Annotated[
        int,
        Meta(
            gt=0,
            description="most bytes that one compressed byte may become, in layers above 256 MiB",
            extra={"live": True},
        ),
    ] = 1000
    pinned: Annotated[
        list[str], Meta(description="references that the kubelet's image GC must not remove", extra={"live": True})
    ] = field(default_factory=list)


class Puller:
    """Pulls images, and collects what no image needs any more."""

    def __init__(
        self,
        config: Config,
        images: Images,
        content: Content,
        snapshotter: Snapshotter,
        leases: Leases,
        workers: Workers,
        *,
        platform: Platform | None = None,
    ) -> None:
        self.configure(config)
        self._images = images
        self._content = content
        self._snapshotter = snapshotter
        self._leases = leases
        self._workers = workers
        self._platform = platform or platforms.read_node()
        self._pulls: singleflight.Flights[Image] = singleflight.Flights(abandon=True)
        self._layers: singleflight.Flights[None] = singleflight.Flights(abandon=True)
        self._transfers: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._board = Board()
        active = [info.name for info in snapshotter.list() if info.kind is SnapshotKind.ACTIVE]
        self._left = [name for name in active if name.startswith(KEY)]

    def configure(self, config: Config) -> None:
        """The settings of pulls and layers to come."""
        self._config = config
        self._limits = jobs.Limits(config.max_layer_bytes, config.max_layer_files, config.max_layer_ratio)

    async def pull(self, text: str, auth: AuthConfig | None = None) -> str:
        """The id of the image that a reference names now, whole and on disk. Equal calls share one attempt; it is
        cancelled when the last caller is. Raises Invalid, and what fetching and unpacking raise."""
        wanted = reference.parse(text)
        key = _key(wanted, auth)
        return (await self._pulls.join(key, lambda: self._tracked(wanted, auth, key))).id

    def progress(self) -> list[PullProgress]:
        """The pulls under way, in bytes as the workers count them."""
        return self._board.pulls()

    def watch(self, image: str = "") -> AsyncIterator[PullProgress]:
        """Changes of pulls, and their ends, until the caller stops. `image`: as a caller of pull names it."""
        return self._board.watch(str(reference.parse(image)) if image else "")

    async def sweep(self) -> list[str]:
        """What the daemon before left of its pulls: half-written layers and blobs. Returns their names. Pulls of this
        one may be under way. An image that has lost a layer (with the power; or the snapshotter is another one) is
        forgotten: no container can be made of it, and the kubelet pulls no image that is there."""
        left, self._left = self._left, []
        for key in left:
            await self._snapshotter.remove(key)
        left += self._content.sweep_ingests()
        for image in self._images.list():
            if not self._is_unpacked(image):
                log.warning("image is forgotten: layers of it are gone", extra={"image": image.id, "names": image.tags})
                self._images.remove(image.id)
        self._images.prune_layers(self._committed())
        await self._publish()
        return left

    async def collect(self, containers: Sequence[str]) -> gc.Garbage:
        """Free what no image, container (`containers`: their snapshots' keys) or pull needs."""
        roots = [image.roots() for image in self._images.table]
        garbage = await gc.sweep(self._content, [self._snapshotter], roots, containers, self._leases)
        self._images.prune_layers(self._committed())
        await self._publish()
        return garbage

    def _committed(self) -> Iterable[str]:
        return [info.name for info in self._snapshotter.list() if info.kind is SnapshotKind.COMMITTED]

    async def _is_committed(self, name: str) -> bool:
        try:
            return (await self._snapshotter.stat(name)).kind is SnapshotKind.COMMITTED
        except NotFound:
            return False

    async def _publish(self) -> None:
        await self._content.write_index(store.index_entries(self._images.list()))

    # -- one pull

    async def _tracked(self, wanted: reference.Reference, auth: AuthConfig | None, key: str) -> Image:
        track = self._board.begin(str(wanted))
        error = ""
        try:
            return await self._pull(wanted, auth, key, track)
        except BaseException as problem:
            error = str(problem) or type(problem).__name__
            raise
        finally:
            self._board.end(track, error)

    async def _pull(self, wanted: reference.Reference, auth: AuthConfig | None, key: str, track: Track) -> Image:
        resolved = await self._resolve(wanted, auth)
        for note in resolved.notes:
            log.warning("registry host skipped", extra={"image": str(wanted), "note": note})
        if resolved.unchanged:
            image = self._images.find(str(wanted))
            if image is not None:
                return image
            resolved = await self._resolve(wanted, auth)  # removed meanwhile
        self._leases.hold(
            key,
            digests=[d.digest for d in resolved.documents] + [plan.descriptor.digest for plan in resolved.layers],
            snapshots=[plan.chain_id for plan in resolved.layers],
        )
        try:
            self._board.plan(track, resolved.layers)
            self._workers.warm(len(resolved.layers))
            await self._fetch(resolved)
            image = self._images.record(self._image(wanted, resolved))
            await self._publish()
        finally:
            self._leases.release(key)
        return image

    async def _resolve(self, wanted: reference.Reference, auth: AuthConfig | None) -> jobs.Resolved:
        source = jobs.Source(
            registry=wanted.registry,
            repository=wanted.repository,
            hosts_directories=self._config.registry_hosts,
            auth=auth,
            stall=self._config.stall_timeout,
        )
        job = jobs.Resolve(source, wanted.target, self._platform, self._known(wanted))
        result = await self._workers.run(job)
        assert isinstance(result, jobs.Resolved)
        return result

    def _known(self, wanted: reference.Reference) -> str:
        """The root digest under this name, if all of its image is here."""
        image = self._images.find(str(wanted))
        if image is None or not all(self._content.exists(digest) for digest in image.roots().digests):
            return ""
        return image.names[str(wanted)] if self._is_unpacked(image) else ""

    def _is_unpacked(self, image: Image) -> bool:
        return image.roots().snapshots.issubset(self._committed())

    async def _fetch(self, resolved: jobs.Resolved) -> None:
        """Documents and layers side by side; the first failure ends the others and is raised as it is."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._store_documents(resolved.documents))
                for at, plan in enumerate(resolved.layers):
                    group.create_task(self._join_layer(resolved.source, resolved.layers, at), name=plan.chain_id)
        except BaseExceptionGroup as problems:
            raise problems.exceptions[0] from None

    async def _store_documents(self, documents: list[jobs.Document]) -> None:
        for document in documents:
            await self._content.write(document.digest, document.data)

    def _image(self, wanted: reference.Reference, resolved: jobs.Resolved) -> Image:
        assert resolved.root is not None
        assert resolved.config is not None
        documents = [document.descriptor for document in resolved.documents]
        passwd, group = self._images.accounts(plan.chain_id for plan in resolved.layers)
        config_size = documents[-1].size
        return Image(
            id=resolved.config_digest,
            names={str(wanted): resolved.root.digest, f"{wanted.name}@{resolved.root.digest}": resolved.root.digest},
            documents=documents,
            layers=resolved.layers,
            size=config_size + sum(plan.descriptor.size for plan in resolved.layers),
            config=resolved.config.run,
            platform=resolved.config.platform,
            passwd=passwd,
            group=group,
            created=resolved.config.created,
        )

    # -- one layer

    async def _join_layer(self, source: jobs.Source, plans: list[jobs.LayerPlan], at: int) -> None:
        await self._layers.join(plans[at].chain_id, lambda: self._layer(source, plans, at))

    async def _layer(self, source: jobs.Source, plans: list[jobs.LayerPlan], at: int) -> None:
        """Make one layer present: its blob and its snapshot, committed after the one below."""
        plan = plans[at]
        done = self._images.layers.get(plan.chain_id)
        if done is not None and not await self._is_committed(plan.chain_id):
            done = None
        if done is None or not self._has_blob(plan, done):
            lease = f"layer {ids.new_id()}"
            key = f"{KEY}{ids.new_id()}"
            self._leases.hold(lease, digests=[plan.descriptor.digest], snapshots=[key, plan.chain_id])
            try:
                if done is None:
                    await self._make_layer(source, plans, at, key)
                else:
                    await self._transfer(source, plan, "")
                    self._images.layers.apply(plan.chain_id, _verified, plan.descriptor.digest)
            finally:
                self._leases.release(lease)
        self._board.layer(plan.chain_id, LayerState.DONE, plan.descriptor.size)

    def _has_blob(self, plan: jobs.LayerPlan, done: Layer) -> bool:
        """Another compression of the same layer does not count: the blob is what the manifest names."""
        return plan.descriptor.digest in done.blobs and self._content.exists(
            plan.descriptor.digest, plan.descriptor.size
        )

    async def _make_layer(self, source: jobs.Source, plans: list[jobs.LayerPlan], at: int, key: str) -> None:
        plan, parent = plans[at], plans[at - 1].chain_id if at else ""
        try:
            await self._snapshotter.prepare(key, parent)
            unpacked = await self._transfer(source, plan, self._snapshotter.directory(key))
            self._board.layer(plan.chain_id, LayerState.UNPACKED, plan.descriptor.size)
            if at:
                await self._join_layer(source, plans, at - 1)
                await self._inherit(unpacked, plans[:at], key)
            usage = Usage(bytes=unpacked.disk_bytes, inodes=unpacked.inodes)
            await self._snapshotter.commit(plan.chain_id, key, usage=usage, synced=True)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._snapshotter.remove(key)))
            raise
        for note in unpacked.notes:
            log.info("layer unpacked with a note", extra={"layer": plan.descriptor.digest, "note": note})
        layer = Layer(
            id=plan.chain_id,
            diff_id=plan.diff_id,
            blobs=[plan.descriptor.digest],
            bytes=unpacked.disk_bytes,
            inodes=unpacked.inodes,
            passwd=unpacked.passwd,
            group=unpacked.group,
        )
        if layer.id in self._images.layers:
            self._images.layers.apply(layer.id, lambda _: layer)
        else:
            self._images.layers.add(layer)  # on disk with the image's row: the log has an order

    async def _inherit(self, unpacked: jobs.Unpacked, below: list[jobs.LayerPlan], key: str) -> None:
        if unpacked.implied:
            directories = [self._snapshotter.directory(plan.chain_id) for plan in reversed(below)]
            await self._workers.run(jobs.Inherit(self._snapshotter.directory(key), directories, unpacked.implied))

    async def _transfer(self, source: jobs.Source, plan: jobs.LayerPlan, directory: str) -> jobs.Unpacked:
        """Fetch (or read) the blob, and unpack it into `directory` if one is given. One transfer per blob at a time:
        whoever waited finds the blob on disk."""
        digest, size = plan.descriptor.digest, plan.descriptor.size
        lock = self._transfers.setdefault(digest, asyncio.Lock())
        async with lock:
            here = self._content.exists(digest, size)
            ingest = "" if here else self._content.ingest(digest)
            try:
                unpacked = await self._run(
                    jobs.Layer(
                        source=source,
                        layer=plan,
                        limits=self._limits,
                        blob=self._content.path(digest) if here else "",
                        ingest=ingest,
                        directory=directory,
                    )
                )
                if ingest:
                    await self._content.commit(ingest, digest, size)
            except BaseException as error:
                if ingest:
                    self._content.discard(ingest)
                if here and isinstance(error, RopewalkError) and error.kind is Kind.CORRUPT:
                    with contextlib.suppress(OSError, RopewalkError):
                        await self._content.verify(digest)  # if it is damaged on disk, the next pull fetches it
                raise
            return unpacked

    async def _run(self, job: jobs.Layer) -> jobs.Unpacked:
        chain_id = job.layer.chain_id
        fetching = LayerState.FETCHING
        self._board.layer(chain_id, fetching, 0)
        result = await self._workers.run(job, lambda fetched: self._board.layer(chain_id, fetching, fetched))
        assert isinstance(result, jobs.Unpacked)
        return result


def _key(wanted: reference.Reference, auth: AuthConfig | None) -> str:
    """What makes two pulls the same: the reference, and who asks."""
    if auth is None:
        return f"pull {wanted}"
    return f"pull {wanted} {hashlib.sha256(msgspec.json.encode(auth)).hexdigest()}"


def _verified(layer: Layer, digest: str) -> Layer:
    return layer if digest in layer.blobs else msgspec.structs.replace(layer, blobs=[*layer.blobs, digest])
