"""Image and layer records: what is here, by id, tag and digest; served from memory.

An image's id is its config's digest ("sha256:…"), the same string in every API. `names` keeps each canonical
reference with the root document (index or manifest) it was pulled as: `repo:tag` names move between images,
`repo@digest` names do not. A layer is recorded when its snapshot and its blob are on disk, with or without an
image: a pull that was cancelled half-way has not worked in vain.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from msgspec import Struct, structs

from ropewalk.errors import Invalid
from ropewalk.images import jobs, reference
from ropewalk.images.descriptor import Descriptor, Platform
from ropewalk.spec.image import ImageConfig
from ropewalk.state.database import Database
from ropewalk.state.store import Table, Watcher
from ropewalk.storage import content, gc
from ropewalk.storage.snapshotter import Usage

_ID_PREFIX = re.compile(r"(sha256:)?[0-9a-f]{1,64}")
MAX_UID = (1 << 32) - 1


class Layer(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A layer on disk. `id`: its chain id, which is the name of its snapshot."""

    id: str
    diff_id: str
    blobs: list[str]  # digests whose bytes were seen to unpack to `diff_id`
    bytes: int = 0  # unpacked
    inodes: int = 0
    passwd: jobs.Account = jobs.Account()
    group: jobs.Account = jobs.Account()


class Image(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An image that is whole. Times are nanoseconds since the epoch."""

    id: str
    names: dict[str, str]  # canonical reference -> digest of its root document
    documents: list[Descriptor]  # indexes, manifests and the config
    layers: list[jobs.LayerPlan]  # bottom first
    size: int  # compressed bytes of layers and config
    config: ImageConfig
    platform: Platform = Platform()
    passwd: bytes = b""  # /etc/passwd of the image, at most 1 MiB
    group: bytes = b""
    pinned: bool = False
    created: str = ""  # as the builder says, RFC 3339
    pulled_at: int = 0

    @property
    def tags(self) -> list[str]:
        """RepoTags: docker.io/library/x:1."""
        return [name for name in self.names if "@" not in name]

    @property
    def digests(self) -> list[str]:
        """RepoDigests: docker.io/library/x@sha256:…."""
        return [name for name in self.names if "@" in name]

    @property
    def chain_id(self) -> str:
        """The snapshot that a container of this image has as parent; "" for an image without layers."""
        return self.layers[-1].chain_id if self.layers else ""

    @property
    def uid(self) -> int | None:
        """USER as a number, if it is one."""
        user = self.config.user.partition(":")[0]
        return int(user) if user.isascii() and user.isdigit() and int(user[:11]) <= MAX_UID else None

    @property
    def username(self) -> str:
        """USER as a name, if it is not a number."""
        return "" if self.uid is not None else self.config.user.partition(":")[0]

    def roots(self) -> gc.Roots:
        """What garbage collection must leave alone."""
        blobs = [*self.documents, *(layer.descriptor for layer in self.layers)]
        return gc.Roots(frozenset(blob.digest for blob in blobs), frozenset(layer.chain_id for layer in self.layers))


def _without(image: Image, name: str) -> Image:
    return structs.replace(image, names={n: root for n, root in image.names.items() if n != name})


def _pinned(image: Image, pinned: bool) -> Image:
    return image if image.pinned == pinned else structs.replace(image, pinned=pinned)


def merged(old: Image | None, new: Image) -> Image:
    """`new`, pulled again or under another name: earlier names and documents stay."""
    if old is None:
        return new
    documents = {document.digest: document for document in [*old.documents, *new.documents]}
    return structs.replace(
        new,
        names={**old.names, **new.names},
        documents=list(documents.values()),
    )


class Images:
    """The image records, and the records of their layers."""

    def __init__(self, database: Database, *, pinned: Iterable[str] = ()) -> None:
        self.table: Table[Image] = Table(database, "images", Image, noun="image")
        self.layers: Table[Layer] = Table(database, "layers", Layer, noun="layer")
        self._names: dict[str, str] = {}  # canonical reference -> image id
        for image in sorted(self.table, key=lambda image: image.pulled_at):
            self._names.update(dict.fromkeys(image.names, image.id))
        for image in self.table:  # a tag that was moving when the daemon was killed: the later pull has it
            for name in [name for name in image.names if self._names[name] != image.id]:
                self.table.apply(image.id, _without, name)
        self.table.watch(self._index)
        self.pin(pinned)

    def pin(self, names: Iterable[str]) -> None:
        """The images of these names, here or still to come, are kept from the kubelet's image GC; no others are.
        Raises Invalid for what is no reference, and has then changed nothing."""
        self._pinned = {str(reference.parse(name)) for name in names}
        for image in self.table:
            self.table.apply(image.id, _pinned, self._is_pinned(image.names), derivable=True)

    def _is_pinned(self, names: Iterable[str]) -> bool:
        return not self._pinned.isdisjoint(names)

    def watch(self, watcher: Watcher[Image]) -> None:
        self.table.watch(watcher)

    def _index(self, old: Image | None, new: Image | None) -> None:
        for name in old.names if old else ():
            if self._names.get(name) == (old and old.id):
                del self._names[name]
        if new is not None:
            self._names.update(dict.fromkeys(new.names, new.id))

    def record(self, image: Image) -> Image:
        """A pulled image, durable; its names leave the images that had them."""
        known = self.table.get(image.id)
        pinned = self._is_pinned([*image.names, *(known.names if known else ())])
        new = structs.replace(image, pinned=pinned, pulled_at=time.time_ns())
        moved = {name: id for name in new.names if (id := self._names.get(name)) not in (None, image.id)}
        if image.id in self.table:
            new = self.table.apply(image.id, merged, new, durable=True)
        else:
            self.table.add(new, durable=True)
        for name, id in moved.items():
            if id is not None:
                left = self.table.apply(id, _without, name, derivable=True)  # as the next start does it
                self.table.apply(id, _pinned, self._is_pinned(left.names), derivable=True)
        self._names.update(dict.fromkeys(new.names, new.id))
        return new

    def find(self, text: str) -> Image | None:
        """By id, tag, digest, or unique id prefix, in this order. Raises Invalid for an ambiguous prefix or ""."""
        if not text:
            raise Invalid("the image reference is empty")
        image = self.table.get(text) or self.table.get(f"sha256:{text}") or self._by_name(text)
        if image is not None or not _ID_PREFIX.fullmatch(text):
            return image
        prefix = text if text.startswith("sha256:") else f"sha256:{text}"
        found = [image for image in self.table if image.id.startswith(prefix)]
        if len(found) > 1:
            raise Invalid(f"image id {text!r} is ambiguous: {len(found)} begin with it", hint="give more digits")
        return found[0] if found else None

    def _by_name(self, text: str) -> Image | None:
        try:
            id = self._names.get(str(reference.parse(text)))
        except Invalid:
            return None
        return self.table.get(id) if id else None

    def list(self, text: str = "") -> list[Image]:
        """All images, or the one that `text` names."""
        if not text:
            return sorted(self.table, key=lambda image: image.id)
        image = self.find(text)
        return [image] if image else []

    def remove(self, text: str) -> Image | None:
        """Forget the image and all its names (runtime.v1: RemoveImage), whatever reference is given; absent is fine.
        The disk is freed by collection (storage/gc.py). Returns what was removed."""
        image = self.find(text)
        if image is not None:
            self.table.remove(image.id, durable=True)
        return image

    def accounts(self, chain: Iterable[str]) -> tuple[bytes, bytes]:
        """/etc/passwd and /etc/group of layers bottom first: the topmost that says anything decides."""
        layers = [layer for id in chain if (layer := self.layers.get(id)) is not None]
        passwd = _topmost(layer.passwd for layer in reversed(layers))
        group = _topmost(layer.group for layer in reversed(layers))
        return passwd, group

    def usage(self) -> Usage:
        """Bytes and inodes of all images on disk: blobs and unpacked layers, each once."""
        blobs: dict[str, int] = {}
        chains: set[str] = set()
        for image in self.table:
            blobs.update({document.digest: document.size for document in image.documents})
            blobs.update({layer.descriptor.digest: layer.descriptor.size for layer in image.layers})
            chains |= {layer.chain_id for layer in image.layers}
        layers = [layer for chain in chains if (layer := self.layers.get(chain)) is not None]
        return Usage(
            bytes=sum(blobs.values()) + sum(layer.bytes for layer in layers),
            inodes=len(blobs) + sum(layer.inodes for layer in layers),
        )

    def prune_layers(self, present: Iterable[str]) -> None:
        """Forget layers whose snapshots are gone."""
        for id in {layer.id for layer in self.layers}.difference(present):
            self.layers.remove(id)


def _topmost(accounts: Iterable[jobs.Account]) -> bytes:
    for account in accounts:
        if account.gone:
            return b""
        if account.content is not None:
            return account.content
    return b""


def index_entries(images: Iterable[Image]) -> list[content.Entry]:
    """index.json: the root document of every tag, and nameless ones of images that have no tag."""
    found: list[content.Entry] = []
    for image in images:
        platform = content.Platform(image.platform.architecture, image.platform.os, image.platform.variant)
        entries = {d.digest: content.Entry(d.media_type, d.digest, d.size, platform) for d in image.documents}
        tagged = {image.names[tag] for tag in image.tags}
        found += [content.named(entries[image.names[tag]], tag) for tag in image.tags]
        found += [entries[root] for root in dict.fromkeys(image.names.values()) if root not in tagged]
    return found
