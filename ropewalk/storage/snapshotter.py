"""The Snapshotter contract: layers by name, and root file systems made of them.

Words. A snapshot has a *key* while it is *active* (writable) and a *name* once it is *committed* (read-only,
may be a parent). A *parent* is the name of a committed snapshot, or "" for none. A *view* is an active
snapshot nobody may write.

Lifecycle of an image layer::

    prepare(key, parent)  ->  directory(key) to unpack into    (the parent need not be committed yet)
    commit(name, key)     ->  from now on `name` may be a parent; needs its own parent committed

so the layers of an image unpack at the same time, and are committed bottom-up. A layer is unpacked in overlay's
form (a whiteout is a character device 0:0, an opaque directory has trusted.overlay.opaque=y). As long as the parent
is missing, `prepare` returns no mounts, and `mounts` raises NotFound. Of a container::

    prepare(container_id, parent=top layer)  ->  mounts        (not mounted: the handler does that)
    remove(container_id)

Every method is idempotent where a repeat can have no other meaning: `commit` of a name that exists removes
the key; `remove` of what is absent does nothing; `prepare` of an active key with the same parent returns its
mounts again. A killed daemon therefore repeats or removes, by key alone.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod

from msgspec import Struct, field


class SnapshotKind(enum.Enum):
    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class Mount(Struct, frozen=True):
    """One mount(8): type, source, options; target is chosen by who mounts. Overlay layers are named in `layers`
    (topmost first), so that the caller can use fsconfig(lowerdir+) or short relative names."""

    type: str  # "overlay", "bind"
    source: str = ""  # bind: the directory
    layers: list[str] = field(default_factory=list)  # overlay: lowerdirs, topmost first
    upper: str = ""
    work: str = ""
    options: list[str] = field(default_factory=list)  # "ro", "rw", "volatile", "userxattr", ...


class Info(Struct, frozen=True):
    kind: SnapshotKind
    name: str  # the key of an active snapshot, the name of a committed one
    parent: str = ""


class Usage(Struct, frozen=True):
    bytes: int = 0  # allocated on disk
    inodes: int = 0
    at: int = 0  # when it was counted, nanoseconds since the epoch; 0: once, at the commit


class Snapshotter(ABC):
    """See the module's essay. Errors: NotFound (parent, key), Kind.EXISTS, Kind.STATE, OSError from the disk."""

    name: str

    async def start(self) -> None:  # noqa: B027 (one on another machine may have nothing to prove)
        """Prove that it works here (Unsupported with the reason otherwise), and go on with what a kill interrupted."""

    async def close(self) -> None:  # noqa: B027
        """Stop what goes on in the background; the next start goes on with it."""

    @abstractmethod
    async def prepare(self, key: str, parent: str = "") -> list[Mount]: ...

    @abstractmethod
    async def view(self, key: str, parent: str) -> list[Mount]: ...

    @abstractmethod
    async def mounts(self, key: str) -> list[Mount]: ...

    @abstractmethod
    def directory(self, key: str) -> str:
        """The directory that a layer is unpacked into (an active snapshot's own files), and that holds it later."""

    @abstractmethod
    async def commit(self, name: str, key: str, *, usage: Usage | None = None, synced: bool = False) -> None:
        """`usage`: what the unpacker counted, else it is counted here. `synced`: the unpacker's file system was
        synced after the last write, else it is synced here; the row never reaches the disk before the bytes."""

    @abstractmethod
    async def remove(self, key: str) -> None:
        """Forget at once; the bytes are freed in the background. Kind.STATE if a snapshot has it as parent."""

    @abstractmethod
    async def stat(self, key: str) -> Info: ...

    @abstractmethod
    async def usage(self, key: str) -> Usage:
        """A snapshot's own bytes and inodes (never its parents'), as the background worker last counted them."""

    @abstractmethod
    def list(self) -> list[Info]: ...
