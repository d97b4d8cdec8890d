"""What the daemon and a pull worker say to each other: one job at a time, progress, one answer.

Frames on a unix socketpair: a 4-byte big-endian length and a MessagePack document. A job carries everything it
needs, credentials included (never argv or environment), and a worker keeps nothing between jobs.
"""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.descriptor import Config, Descriptor, Platform
from ropewalk.spec.image import AuthConfig

LENGTH = struct.Struct(">I")
MAX_FRAME = 64 << 20  # an index, a manifest and a config of 4 MiB each, and room


class Limits(Struct, frozen=True):
    """What one layer may become on disk (decompression bombs)."""

    layer_bytes: int  # uncompressed
    layer_inodes: int
    ratio: int  # uncompressed to compressed, looked at from `ratio_from` bytes on
    ratio_from: int = 256 << 20


class Source(Struct, frozen=True):
    """Where a repository is fetched from, and with what."""

    registry: str  # as in the reference: "docker.io"
    repository: str
    hosts_directories: list[str]  # searched for <registry>/hosts.toml, first wins
    auth: AuthConfig | None = None
    stall: float = 30.0  # seconds without a byte
    grants: dict[str, str] = field(default_factory=dict)  # base URL -> Authorization header that worked
    unreachable: list[str] = field(default_factory=list)  # base URLs not worth asking again


class Resolve(Struct, frozen=True, tag=True):
    """Fetch index, manifest and config. Answer: Resolved."""

    source: Source
    target: str  # tag or digest
    platform: Platform
    known: str = ""  # the root digest the daemon has complete under this name


class Document(Struct, frozen=True):
    media_type: str
    digest: str
    data: bytes

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))


class LayerPlan(Struct, frozen=True):
    """A layer of an image: what is fetched, what it must unpack to, what its snapshot is called."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str


class Resolved(Struct, frozen=True, tag=True):
    """`unchanged`: the registry still has `known` under this name, and nothing else is set."""

    source: Source  # with what was learnt: grants, unreachable mirrors
    unchanged: bool = False
    root: Descriptor | None = None  # what the reference names: an index or a manifest
    manifest: Descriptor | None = None
    config_digest: str = ""
    config: Config | None = None
    documents: list[Document] = field(default_factory=list)  # every document on the way, root first
    layers: list[LayerPlan] = field(default_factory=list)  # bottom first
    notes: list[str] = field(default_factory=list)  # mirrors that were skipped, and why


class Layer(Struct, frozen=True, tag=True):
    """Fetch, digest, inflate and unpack a layer in one pass. Answer: Unpacked."""

    source: Source
    layer: LayerPlan
    limits: Limits
    blob: str = ""  # read the compressed bytes from here, not from the registry
    ingest: str = ""  # write the compressed bytes here
    directory: str = ""  # unpack into this; "": only verify the diff id


class Account(Struct, frozen=True, omit_defaults=True):
    """One of /etc/passwd and /etc/group as a layer leaves it. `gone`: hidden or not a regular file."""

    content: bytes | None = None
    gone: bool = False


class Unpacked(Struct, frozen=True, tag=True):
    size: int  # compressed bytes
    disk_bytes: int = 0
    inodes: int = 0
    passwd: Account = Account()
    group: Account = Account()
    implied: list[bytes] = field(default_factory=list)  # directories that no entry described
    notes: list[str] = field(default_factory=list)


class Inherit(Struct, frozen=True, tag=True):
    """Give directories that no entry of a layer described the metadata they have below. Answer: Done."""

    directory: str
    below: list[str]  # directories of the layers below, topmost first
    implied: list[bytes]


class Done(Struct, frozen=True, tag=True):
    pass


class Progress(Struct, frozen=True, tag=True):
    """Compressed bytes of the current job so far."""

    fetched: int


class Failure(Struct, frozen=True, tag=True):
    """A job failed: the parts of a RopewalkError."""

    kind: str
    message: str
    hint: str = ""

    def error(self) -> RopewalkError:
        return RopewalkError(self.message, hint=self.hint, kind=Kind(self.kind))


Job = Resolve | Layer | Inherit
Result = Resolved | Unpacked | Done
Report = Progress | Failure | Resolved | Unpacked | Done

_encoder = msgspec.msgpack.Encoder()
_jobs: msgspec.msgpack.Decoder[Job] = msgspec.msgpack.Decoder(Job)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def decode_job(body: bytes) -> Job:
    return _jobs.decode(body)


def decode_report(body: bytes) -> Report:
    return _reports.decode(body)


def encode(message: Job | Report) -> bytes:
    """A frame."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body
