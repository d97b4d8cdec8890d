"""Images made in the test: layers, configs, manifests and indexes as bytes, and as an OCI layout for skopeo."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.images import descriptor

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

LAYER = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class File(NamedTuple):
    """One archive member; `type` as in tarfile."""

    name: str
    content: bytes = b""
    type: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    mtime: float = 1_700_000_000
    device: tuple[int, int] = (0, 0)
    pax: Mapping[str, str] = {}


def directory(name: str, mode: int = 0o755, **more: Any) -> File:
    return File(name, type=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, link: str, **more: Any) -> File:
    return File(name, type=tarfile.SYMTYPE, link=link, mode=0o777, **more)


def hard_link(name: str, link: str, **more: Any) -> File:
    return File(name, type=tarfile.LNKTYPE, link=link, **more)


def archive(files: Iterable[File], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for file in files:
            info = tarfile.TarInfo(file.name)
            info.type, info.mode, info.uid, info.gid = file.type, file.mode, file.uid, file.gid
            info.mtime, info.linkname, info.size = file.mtime, file.link, len(file.content)
            info.devmajor, info.devminor = file.device
            info.pax_headers = dict(file.pax)
            tar.addfile(info, io.BytesIO(file.content))
    return out.getvalue()


class Layer(NamedTuple):
    blob: bytes
    diff_id: str
    media_type: str

    @property
    def digest(self) -> str:
        return sha256(self.blob)


def layer(tar: bytes | Iterable[File], compression: str = "gzip", *, media_type: str = "") -> Layer:
    plain = tar if isinstance(tar, bytes) else archive(tar)
    if compression == "gzip":
        blob = gzip.compress(plain, 6, mtime=0)
    elif compression == "zstd":
        blob = zstd.compress(plain)
    else:
        blob = plain
    suffix = f"+{compression}" if compression else ""
    return Layer(blob, sha256(plain), media_type or LAYER + suffix)


class Image:
    """`blobs` and `manifests` are what a registry serves: digest -> bytes, digest -> (type, bytes)."""

    def __init__(
        self,
        layers: Iterable[Layer],
        run: Mapping[str, Any] | None = None,
        *,
        platform: tuple[str, str] = ("linux", "amd64"),
        docker: bool = False,
        config: bytes | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        self.layers = list(layers)
        config_type = descriptor.DOCKER_CONFIG if docker else descriptor.OCI_CONFIG
        self.media_type = descriptor.DOCKER_MANIFEST if docker else descriptor.OCI_MANIFEST
        self.config = (
            config
            or json.dumps(
                {
                    "os": platform[0],
                    "architecture": platform[1],
                    "created": "2026-01-02T03:04:05Z",
                    "config": dict(run or {}),
                    "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
                }
            ).encode()
        )
        document = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": {"mediaType": config_type, "digest": sha256(self.config), "size": len(self.config)},
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": len(layer.blob)}
                for layer in self.layers
            ],
            **(fields or {}),  # of the manifest, in place of the true ones; None leaves one out
        }
        self.manifest = json.dumps({k: v for k, v in document.items() if v is not None}).encode()

    @property
    def id(self) -> str:
        return sha256(self.config)

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {self.id: self.config, **{layer.digest: layer.blob for layer in self.layers}}

    def describe(self, **more: Any) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest), **more}

    def write_layout(self, where: Path) -> Path:
        """An OCI layout of one image, as skopeo reads it."""
        blobs = where / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest, data in {**self.blobs, self.digest: self.manifest}.items():
            (blobs / digest.partition(":")[2]).write_bytes(data)
        (where / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (where / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [self.describe()]}))
        return where


def index(children: Iterable[Mapping[str, Any]], media_type: str = descriptor.OCI_INDEX, **more: Any) -> bytes:
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": list(children), **more}
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()
