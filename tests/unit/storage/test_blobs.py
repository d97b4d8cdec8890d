from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.linux import offload
from ropewalk.storage import blobs

DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name in ("blobs/sha256", "blobs/sha512", "ingest"):
        (tmp_path / name).mkdir(parents=True)
    return str(tmp_path)


def ingested(root: str, data: bytes = DATA) -> str:
    ingest = blobs.create_ingest(root, DIGEST)
    Path(ingest).write_bytes(data)
    return ingest


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "٣" * 64,
        "sha512:" + "a" * 64,
        "sha384:" + "a" * 96,
        "md5:" + "a" * 32,
        "sha256:../../../../etc/passwd" + "a" * 40,
        "../sha256:" + "a" * 64,
        "sha256+b64:" + "a" * 64,
    ],
)
def test_what_is_no_digest_names_no_file(root: str, digest: str) -> None:
    for attempt in (blobs.path, blobs.create_ingest):
        with pytest.raises(Invalid):
            attempt(root, digest)


def test_a_digest_is_a_file_name() -> None:
    assert blobs.path("/r", "sha256:" + "0a" * 32) == "/r/blobs/sha256/" + "0a" * 32
    assert blobs.path("/r", "sha512:" + "0a" * 64) == "/r/blobs/sha512/" + "0a" * 64


def test_a_published_blob_is_in_place(root: str) -> None:
    ingest = ingested(root)
    blobs.publish(root, ingest, DIGEST, len(DATA))
    assert Path(blobs.path(root, DIGEST)).read_bytes() == DATA
    assert not os.path.exists(ingest)
    assert os.stat(blobs.path(root, DIGEST)).st_mode & 0o777 == 0o600
    blobs.publish(root, ingest, DIGEST, len(DATA))  # a repeat


def test_two_downloads_of_a_blob_do_not_meet(root: str) -> None:
    first, second = ingested(root), ingested(root)
    assert first != second
    blobs.publish(root, first, DIGEST, len(DATA))
    blobs.publish(root, second, DIGEST, len(DATA))
    assert os.listdir(f"{root}/ingest") == []


@pytest.mark.parametrize("size", [0, len(DATA) - 1, len(DATA) + 1])
def test_another_size_than_promised(root: str, size: int) -> None:
    ingest = ingested(root)
    with pytest.raises(RopewalkError, match=f"{len(DATA)} bytes, {size}") as caught:
        blobs.publish(root, ingest, DIGEST, size)
    assert caught.value.kind is Kind.CORRUPT
    assert not os.path.exists(blobs.path(root, DIGEST))
    assert not os.path.exists(ingest)


def test_nothing_was_ingested(root: str) -> None:
    with pytest.raises(NotFound):
        blobs.publish(root, f"{root}/ingest/none", DIGEST, len(DATA))


def test_a_link_is_not_published(root: str) -> None:
    os.symlink("/etc/passwd", f"{root}/ingest/link")
    with pytest.raises(OSError):
        blobs.publish(root, f"{root}/ingest/link", DIGEST, os.stat("/etc/passwd").st_size)
    assert not os.path.lexists(blobs.path(root, DIGEST))


def test_a_full_disk_is_said(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ingest = ingested(root)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RopewalkError, match="free space") as caught:
        blobs.publish(root, ingest, DIGEST, len(DATA))
    assert caught.value.kind is Kind.EXHAUSTED
    assert not os.path.exists(blobs.path(root, DIGEST))


def test_a_document_is_checked(root: str) -> None:
    blobs.write(root, DIGEST, DATA)
    assert Path(blobs.path(root, DIGEST)).read_bytes() == DATA
    with pytest.raises(RopewalkError) as caught:
        blobs.write(root, DIGEST, DATA + b"!")
    assert caught.value.kind is Kind.CORRUPT
    assert Path(blobs.path(root, DIGEST)).read_bytes() == DATA


@pytest.mark.parametrize("module", ["blobs", "trees", "copies"])
def test_workers_need_little(module: str) -> None:
    """What a process that downloads, or an offload worker, imports with it."""
    code = f"import ropewalk.storage.{module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=offload.environment(), capture_output=True, check=True
    )
    assert not {"asyncio", "sqlite3", "grpc", "msgspec", "logging"} & set(done.stdout.decode().split())
