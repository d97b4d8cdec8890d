"""A small builder of OCI images: the same input gives the same bytes.

A `Tree` collects files, a layer is its tar, an `Image` is layers and a configuration; `write` puts it into an OCI image
layout (image-spec 1.0: image-layout.md, manifest.md, config.md) under a reference.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "1700000000"))
CREATED = "2023-11-14T22:13:20Z"

OCI = {
    "index": "application/vnd.oci.image.index.v1+json",
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


class Tree:
    """The entries of one layer, by path without leading slash; parents come before children when it is written."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def _add(
        self, path: str, kind: bytes, mode: int, owner: tuple[int, int], data: bytes = b"", link: str = ""
    ) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.mtime, info.linkname, info.size = kind, mode, EPOCH, link, len(data)
        info.uid, info.gid = owner
        self.entries[path] = (info, data)

    def directory(self, path: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        self._add(path, tarfile.DIRTYPE, mode, owner)

    def file(self, path: str, data: bytes | str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        self._add(path, tarfile.REGTYPE, mode, owner, data.encode() if isinstance(data, str) else data)

    def symlink(self, path: str, target: str) -> None:
        self._add(path, tarfile.SYMTYPE, 0o777, (0, 0), link=target)

    def hardlink(self, path: str, target: str) -> None:
        """`target` is another path of this layer that sorts before `path`."""
        self._add(path, tarfile.LNKTYPE, 0o755, (0, 0), link=target)

    def xattr(self, path: str, name: str, value: bytes) -> None:
        """As GNU tar and every OCI tool write it: a pax record of the entry."""
        info = self.entries[path][0]
        info.pax_headers = {**info.pax_headers, f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}

    def copy(self, source: Path, skip: Callable[[str], bool]) -> None:
        """Everything below a directory on disk but what `skip(path)` names: modes, owners, links; no times."""
        for path in sorted(source.rglob("*")):
            name = str(path.relative_to(source))
            status = path.lstat()
            owner, mode = (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)
            if skip(name):
                continue
            if path.is_symlink():
                self.symlink(name, os.readlink(path))
            elif path.is_dir():
                self.directory(name, mode, owner)
            else:
                self.file(name, path.read_bytes(), mode, owner)

    def tar(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for _, (info, data) in sorted(self.entries.items()):
                archive.addfile(info, io.BytesIO(data))
        return out.getvalue()


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, compresslevel=6 if len(data) < 32 << 20 else 1, mtime=0)
    if how == "zstd":
        from backports import zstd

        return zstd.compress(data)
    return data


@dataclass(frozen=True)
class Image:
    """`config` is the OCI image's `config` object: Env, Cmd, User and so on."""

    layers: list[bytes]  # tars, lowest first
    config: dict[str, Any] = field(default_factory=dict)
    compression: str = "gzip"  # gzip, zstd or "" for none
    index: bool = False  # behind an index that also offers another platform


class Layout:
    """An OCI image layout being written."""

    def __init__(self, directory: Path, architecture: str) -> None:
        self.directory = directory
        self.architecture = architecture
        self.blobs = directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._manifests: list[dict[str, Any]] = []
        self._compressed: dict[tuple[str, str], dict[str, Any]] = {}  # by diff id and compression

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (self.blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def _json(self, document: dict[str, Any], media_type: str) -> dict[str, Any]:
        return self._blob(json.dumps(document, separators=(",", ":"), sort_keys=True).encode(), media_type)

    def _layer(self, tar: bytes, diff_id: str, compression: str, media_type: str) -> dict[str, Any]:
        known = self._compressed.get((diff_id, compression))
        if known is None:
            known = self._compressed[diff_id, compression] = self._blob(compress(tar, compression), media_type)
        return {**known, "mediaType": media_type}

    def _manifest(self, image: Image, architecture: str) -> dict[str, Any]:
        diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in image.layers]
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": CREATED,
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": CREATED, "created_by": "ropewalk tools/oci.py"} for _ in diff_ids],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI["manifest"],
            "config": self._json(config, OCI["config"]),
            "layers": [
                self._layer(tar, diff_id, image.compression, OCI[image.compression])
                for tar, diff_id in zip(image.layers, diff_ids, strict=True)
            ],
        }
        return self._json(manifest, OCI["manifest"])

    def add(self, image: Image, *references: str) -> None:
        descriptor = self._manifest(image, self.architecture)
        if image.index:
            other = "arm64" if self.architecture != "arm64" else "amd64"
            offers = [
                {**self._manifest(image, name), "platform": {"os": "linux", "architecture": name}}
                for name in (other, self.architecture)
            ]
            descriptor = self._json({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": offers}, OCI["index"])
        for reference in references:
            named = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": reference}}
            self._manifests.append(named)

    def close(self) -> None:
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._manifests}))
