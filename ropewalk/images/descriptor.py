"""OCI image documents (image-spec: descriptor, index, manifest, config) and Docker's schema 2 twins.

A document is parsed once, strictly: its body's mediaType, the registry's Content-Type and the descriptor that
led to it must agree, and it may be one kind only (CVE-2021-41190: the same bytes valid as index and manifest).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Kind, RopewalkError, Unsupported
from ropewalk.images import reference
from ropewalk.spec.image import ImageConfig

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"  # and ...v1+json, v1+prettyjws

INDEXES = frozenset((OCI_INDEX, DOCKER_LIST))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
CONFIGS = frozenset((OCI_CONFIG, DOCKER_CONFIG))
_LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
LAYERS = frozenset(p + s for p in _LAYER_PREFIXES for s in ("", "+gzip", "+zstd", ".gzip", ".zstd"))

MAX_DOCUMENT = 4 << 20  # bytes of a manifest, an index, a config
MAX_LAYERS = 512
MAX_CHILDREN = 1024  # manifests of an index
MAX_DEPTH = 3  # indexes within indexes

# What a registry is asked for.
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))


class BadDocument(RopewalkError):
    """The registry served something that is not what it says it is."""

    kind = Kind.CORRUPT


class Platform(Struct, frozen=True, omit_defaults=True):
    """What a manifest runs on. `variant`: "v8" of arm64, "v3" of amd64."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Content by media type, digest and size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None


class Index(Struct, frozen=True, rename="camel"):
    manifests: list[Descriptor] = field(default_factory=list)


class Manifest(Struct, frozen=True, rename="camel"):
    config: Descriptor
    layers: list[Descriptor] = field(default_factory=list)


class _Shape(Struct, frozen=True, rename="camel"):
    """Which keys a document has, before it is believed to be anything."""

    schema_version: int | None = None
    media_type: str | None = None
    manifests: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    fs_layers: msgspec.Raw = msgspec.Raw()


def _is_given(value: msgspec.Raw) -> bool:
    return bytes(value) not in (b"", b"null")


class _RootFs(Struct, frozen=True):
    diff_ids: list[str] | None = None


class _RunConfig(Struct, frozen=True, rename="pascal"):
    """Builders write null for what is empty."""

    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    volumes: dict[str, Any] | None = None
    exposed_ports: dict[str, Any] | None = None


class _Config(Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None
    rootfs: _RootFs | None = None
    config: _RunConfig | None = None


class Config(Struct, frozen=True):
    """An image config: what it runs on, its layers' diff ids bottom first, and what to run."""

    platform: Platform
    diff_ids: list[str]
    run: ImageConfig
    created: str = ""  # RFC 3339, as the builder wrote it


T = TypeVar("T")


def _decode(data: bytes, type: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadDocument(f"{what} is not a valid document: {error}") from error


def parse_document(data: bytes, content_type: str, what: str, *, expected: str = "") -> tuple[str, Index | Manifest]:
    """(media type, document) of an index or a manifest.

    `content_type`: the registry's header; `expected`: the media type of the descriptor that led here, if one did.
    Raises BadDocument, Unsupported (schema 1).
    """
    if len(data) > MAX_DOCUMENT:
        raise BadDocument(f"{what} is larger than {MAX_DOCUMENT} bytes")
    shape = _decode(data, _Shape, what)
    declared = content_type.partition(";")[0].strip().lower()
    if shape.schema_version == 1 or _is_given(shape.fs_layers) or declared.startswith(DOCKER_SCHEMA1):
        raise Unsupported(
            f"{what} is a Docker schema 1 manifest, which no current runtime reads",
            hint="pull and push the image once with a current docker, podman or skopeo",
        )
    media_type = _agreed_type(shape, declared, expected, what)
    if media_type in INDEXES:
        return media_type, _index(data, shape, what)
    return media_type, _manifest(data, shape, what)


def _agreed_type(shape: _Shape, declared: str, expected: str, what: str) -> str:
    """The one media type that body, header and descriptor agree on. A header that names no document type
    (application/json) says nothing."""
    known = INDEXES | MANIFESTS
    claims = {claim for claim in (shape.media_type, expected) if claim}
    if declared in known:
        claims.add(declared)
    if len(claims) > 1:
        raise BadDocument(f"{what} claims several media types: {', '.join(sorted(claims))}")
    if not claims or next(iter(claims)) not in known:
        found = next(iter(claims), declared) or "nothing"
        raise BadDocument(f"{what} is of type {found!r}, not an image manifest or index")
    return claims.pop()


def _index(data: bytes, shape: _Shape, what: str) -> Index:
    if _is_given(shape.config) or _is_given(shape.layers):
        raise BadDocument(f"{what} is an index that also has a manifest's fields (CVE-2021-41190)")
    index = _decode(data, Index, what)
    if len(index.manifests) > MAX_CHILDREN:
        raise BadDocument(f"{what} lists {len(index.manifests)} manifests, at most {MAX_CHILDREN}")
    for child in index.manifests:
        _check(child, what)
    return index


def _manifest(data: bytes, shape: _Shape, what: str) -> Manifest:
    if _is_given(shape.manifests):
        raise BadDocument(f"{what} is a manifest that also has an index's fields (CVE-2021-41190)")
    if not _is_given(shape.config) or not _is_given(shape.layers):
        raise BadDocument(f"{what} has no config or no layers")
    manifest = _decode(data, Manifest, what)
    if len(manifest.layers) > MAX_LAYERS:
        raise BadDocument(f"{what} has {len(manifest.layers)} layers, at most {MAX_LAYERS}")
    _check(manifest.config, what)
    if manifest.config.media_type not in CONFIGS:
        raise Unsupported(f"{what} is an artifact of type {manifest.config.media_type!r}, not a container image")
    for layer in manifest.layers:
        _check(layer, what)
        _check_layer(layer, what)
    return manifest


def _check(descriptor: Descriptor, what: str) -> None:
    if not reference.is_digest(descriptor.digest):
        raise BadDocument(f"{what} names a malformed digest {descriptor.digest[:80]!r}")
    if descriptor.size < 0:
        raise BadDocument(f"{what} gives {descriptor.digest} the size {descriptor.size}")


def _check_layer(layer: Descriptor, what: str) -> None:
    if layer.media_type.endswith("+encrypted"):
        raise Unsupported(f"{what} has an encrypted layer {layer.digest}")
    if layer.media_type not in LAYERS:
        raise Unsupported(f"{what} has a layer of type {layer.media_type[:100]!r}, which is not a tar archive")


def parse_config(data: bytes, manifest: Manifest, what: str) -> Config:
    """An image config that has exactly one diff id per layer of its manifest."""
    document = _decode(data, _Config, what)
    diff_ids = (document.rootfs.diff_ids if document.rootfs else None) or []
    if len(diff_ids) != len(manifest.layers):
        raise BadDocument(f"{what} has {len(diff_ids)} diff ids for {len(manifest.layers)} layers")
    for diff_id in diff_ids:
        if not reference.is_digest(diff_id):
            raise BadDocument(f"{what} has a malformed diff id {diff_id[:80]!r}")
    platform = Platform(document.os, document.architecture, document.variant)
    return Config(platform, diff_ids, _run_config(document.config or _RunConfig()), document.created or "")


def _run_config(run: _RunConfig) -> ImageConfig:
    return ImageConfig(
        user=run.user or "",
        env=run.env or [],
        entrypoint=run.entrypoint or [],
        cmd=run.cmd or [],
        working_dir=run.working_dir or "",
        labels=run.labels or {},
        stop_signal=run.stop_signal or "",
        volumes=sorted(run.volumes or {}),
        exposed_ports=sorted(run.exposed_ports or {}),
    )
