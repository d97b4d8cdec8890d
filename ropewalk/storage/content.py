"""The content store: a directory that is an OCI image layout (image-spec, image-layout.md).

    oci-layout  index.json          what skopeo, umoci, buildah and podman read in place
    blobs/<algorithm>/<hex>         manifests, configs, layers: complete, synced, immutable
    ingest/…  trash/…               being written, being freed; the layout's readers ignore them

SQLite holds the truth about images; index.json is a projection of it, so that others can read, and so that their
garbage collection keeps what images here use. What others write into the layout is not read.

A blob's way: `ingest` gives a file to a worker process, which writes (and hashes) into it; `commit` makes it visible.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.linux import offload, paths
from ropewalk.storage import blobs, trash
from ropewalk.storage.snapshotter import Usage

_REFERENCE = "org.opencontainers.image.ref.name"  # image-spec, annotations.md: skopeo's and umoci's name
_NAME = "io.containerd.image.name"  # what ctr and nerdctl prefer
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_ALGORITHMS = ("sha256", "sha512")
WRITE_DEADLINE = 600.0  # seconds for a blob to reach the disk


class Platform(Struct, frozen=True, omit_defaults=True):
    """image-spec, image-index.md: the part that names which machine an image is for."""

    architecture: str
    os: str
    variant: str = ""


class Entry(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A descriptor in index.json (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)


class _Index(Struct, frozen=True, rename="camel"):
    manifests: list[Entry]
    schema_version: int = 2
    media_type: str = "application/vnd.oci.image.index.v1+json"


def named(entry: Entry, reference: str) -> Entry:
    """`entry` under a name: a full reference ("docker.io/library/busybox:1"); "" keeps it nameless."""
    names = {_REFERENCE: reference, _NAME: reference} if reference else {}
    return msgspec.structs.replace(entry, annotations=names)


class Content:
    """See the module. What is present is known from memory; only this process and its workers write here."""

    def __init__(self, directory: str, offload: offload.Offload) -> None:
        self.directory = directory
        self._offload = offload
        self._writing = asyncio.Lock()
        for name in ("", "blobs", *(f"blobs/{algorithm}" for algorithm in _ALGORITHMS), "ingest"):
            os.makedirs(f"{directory}/{name}", mode=blobs.DIRECTORY_MODE, exist_ok=True)
        self._trash = trash.Trash(f"{directory}/trash", offload)
        if not os.path.exists(f"{directory}/oci-layout"):
            paths.write_atomic(f"{directory}/oci-layout", _LAYOUT, blobs.FILE_MODE)
        if not os.path.exists(f"{directory}/index.json"):
            paths.write_atomic(f"{directory}/index.json", msgspec.json.encode(_Index([])), blobs.FILE_MODE)
        with open(f"{directory}/index.json", "rb") as file:
            self._index = file.read()
        self._sizes = dict(self._found())
        self._left = os.listdir(f"{directory}/ingest")

    def _found(self) -> Iterable[tuple[str, int]]:
        """Blobs. What else lies there is not ours."""
        for algorithm in _ALGORITHMS:
            with os.scandir(f"{self.directory}/blobs/{algorithm}") as entries:
                for entry in entries:
                    digest = f"{algorithm}:{entry.name}"
                    if blobs.is_digest(digest) and entry.is_file(follow_symlinks=False):
                        yield digest, entry.stat(follow_symlinks=False).st_size

    async def start(self) -> None:
        """Go on freeing what a kill interrupted."""
        self._trash.start()

    async def close(self) -> None:
        await self._trash.close()

    async def emptied(self) -> None:
        """Wait until the bytes of all that was removed are free."""
        await self._trash.emptied()

    def path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises Invalid for what is no digest."""
        return blobs.path(self.directory, digest)

    def size(self, digest: str) -> int | None:
        """Bytes, or None if it is not here."""
        return self._sizes.get(digest)

    def exists(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here, with that size if one is given."""
        found = self._sizes.get(digest)
        return found is not None and size in (None, found)

    def digests(self) -> dict[str, int]:
        """Every blob with its size."""
        return dict(self._sizes)

    def usage(self) -> Usage:
        return Usage(bytes=sum(self._sizes.values()), inodes=len(self._sizes))

    def ingest(self, digest: str) -> str:
        """A new file for the bytes of `digest`, to be written by a worker. EXHAUSTED if the disk is full."""
        try:
            return blobs.create_ingest(self.directory, digest)
        except OSError as error:
            raise blobs.explain(error, f"cannot store {digest}") from error

    async def commit(self, ingest: str, digest: str, size: int) -> None:
        """Make what was ingested visible; on disk when this returns. The worker has hashed it, and may have called
        blobs.publish itself: then this only takes note. Errors as there; a failed ingest stays until discarded."""
        if os.path.exists(ingest) or not blobs.is_blob(self.path(digest), size):
            await self._store(digest, size, blobs.publish, self.directory, ingest, digest, size)
        self._sizes[digest] = size

    async def write(self, digest: str, data: bytes) -> None:
        """Store a small document (a manifest); its digest is checked."""
        if not self.exists(digest, len(data)):
            await self._store(digest, len(data), blobs.write, self.directory, digest, data)

    async def _store(self, digest: str, size: int, write: Callable[..., None], *arguments: object) -> None:
        """It ends what it began when its caller leaves: a worker that is killed would leave half a file, or a blob
        that nobody knows of before the next start."""

        async def store() -> None:
            await self._offload.call(write, *arguments, timeout=WRITE_DEADLINE)
            self._sizes[digest] = size

        writing = asyncio.ensure_future(store())
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(writing)

    async def verify(self, digest: str) -> None:
        """Read the blob, and forget it if it is damaged. Absent is fine."""
        if self.exists(digest):
            intact = self._offload.call(blobs.is_intact, self.directory, digest, timeout=WRITE_DEADLINE)
            if not await intact:
                self.remove(digest)

    def read(self, digest: str, limit: int) -> bytes:
        """A small document, its digest checked. NotFound, Invalid (larger than `limit` bytes), CORRUPT."""
        algorithm, hex = blobs.parse_digest(digest)
        size = self._sizes.get(digest)
        if size is None:
            raise NotFound(f"no blob {digest}")
        if size > limit:
            raise Invalid(f"{digest} has {size} bytes, more than {limit}")
        with open(self.path(digest), "rb") as file:
            data = file.read(limit + 1)
        if hashlib.new(algorithm, data).hexdigest() != hex:
            raise RopewalkError(f"the bytes of {digest} on disk have changed", kind=Kind.CORRUPT)
        return data

    def remove(self, digest: str) -> None:
        """Forget a blob at once; its bytes are freed in the background. Absent is fine."""
        if self._sizes.pop(digest, None) is not None:
            self._trash.throw(self.path(digest))

    def discard(self, ingest: str) -> None:
        """Give up what was being ingested. Absent is fine."""
        self._trash.throw(ingest)

    def sweep_ingests(self) -> list[str]:
        """Discard what the daemon before left; what this one writes stays. Returns the names."""
        left, self._left = self._left, []
        for name in left:
            self.discard(f"{self.directory}/ingest/{name}")
        return left

    async def write_index(self, entries: Iterable[Entry]) -> None:
        """Publish what images there are; the last call wins. Nothing is written if nothing changed."""
        index = msgspec.json.encode(_Index(list(entries)))
        async with self._writing:
            if index != self._index:
                self._index = b""  # cut off, it may be written or not
                await self._offload.call(blobs.write_index, self.directory, index, timeout=WRITE_DEADLINE)
                self._index = index
