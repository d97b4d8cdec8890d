from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.storage import blobs
from ropewalk.storage.content import Content, Entry, Platform, named
from ropewalk.storage.snapshotter import Usage
from tests.fakes.inline import InlineOffload

T = TypeVar("T")
DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
async def content(tmp_path: Path) -> AsyncIterator[Content]:
    content = Content(str(tmp_path / "content"), InlineOffload())
    await content.start()
    yield content
    await content.close()


async def store(content: Content, data: bytes = DATA) -> str:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    ingest = content.ingest(digest)
    Path(ingest).write_bytes(data)
    await content.commit(ingest, digest, len(data))
    return digest


def index(content: Content) -> dict[str, object]:
    document: dict[str, object] = json.loads(Path(content.directory, "index.json").read_bytes())
    return document


async def test_an_empty_store_is_a_layout(content: Content) -> None:
    assert json.loads(Path(content.directory, "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index(content)["schemaVersion"] == 2
    assert index(content)["manifests"] == []
    assert content.usage() == Usage()
    assert content.digests() == {}


async def test_only_root_reads_it(content: Content) -> None:
    await store(content)
    content.ingest(DIGEST)
    for directory, _, files in os.walk(content.directory):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        assert {stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode) for name in files} <= {0o600}


async def test_a_blob_is_visible_once_committed(content: Content) -> None:
    ingest = content.ingest(DIGEST)
    Path(ingest).write_bytes(DATA)
    assert not content.exists(DIGEST)
    assert not os.path.exists(content.path(DIGEST))
    await content.commit(ingest, DIGEST, len(DATA))
    assert content.exists(DIGEST)
    assert content.exists(DIGEST, len(DATA))
    assert not content.exists(DIGEST, len(DATA) + 1)
    assert content.size(DIGEST) == len(DATA)
    assert content.read(DIGEST, 100) == DATA
    assert content.usage() == Usage(bytes=len(DATA), inodes=1)


async def test_a_worker_may_have_published_itself(content: Content) -> None:
    ingest = content.ingest(DIGEST)
    Path(ingest).write_bytes(DATA)
    blobs.publish(content.directory, ingest, DIGEST, len(DATA))
    await content.commit(ingest, DIGEST, len(DATA))
    assert content.exists(DIGEST)


async def test_a_blob_of_another_size_is_refused(content: Content) -> None:
    ingest = content.ingest(DIGEST)
    Path(ingest).write_bytes(DATA)
    with pytest.raises(RopewalkError) as caught:
        await content.commit(ingest, DIGEST, 3)
    assert caught.value.kind is Kind.CORRUPT
    assert not content.exists(DIGEST)


async def test_what_is_here_after_a_kill(content: Content) -> None:
    await store(content)
    Path(content.directory, "blobs/sha256/.tmp-of-others").write_bytes(b"x")
    Path(content.directory, "blobs/sha256", "a" * 64).mkdir()
    again = Content(content.directory, InlineOffload())
    assert again.digests() == {DIGEST: len(DATA)}


async def test_reading_is_bounded_and_checked(content: Content) -> None:
    await store(content)
    with pytest.raises(Invalid, match="10 bytes, more than 9"):
        content.read(DIGEST, 9)
    with pytest.raises(NotFound):
        content.read("sha256:" + "a" * 64, 9)
    Path(content.path(DIGEST)).write_bytes(DATA[::-1])
    with pytest.raises(RopewalkError) as caught:
        content.read(DIGEST, 10)
    assert caught.value.kind is Kind.CORRUPT


async def test_a_document_is_written_once(content: Content) -> None:
    await content.write(DIGEST, DATA)
    await content.write(DIGEST, DATA)
    assert content.read(DIGEST, 10) == DATA


async def test_a_removed_blob_frees_its_bytes(content: Content) -> None:
    digest = await store(content, b"x" * (2 << 20))
    content.remove(digest)
    content.remove(digest)
    assert not content.exists(digest)
    assert not os.path.exists(content.path(digest))
    await content.emptied()
    assert os.listdir(f"{content.directory}/trash") == []


async def test_what_a_killed_daemon_was_writing_is_swept_what_this_one_writes_is_not(content: Content) -> None:
    left = content.ingest(DIGEST)
    again = Content(content.directory, InlineOffload())
    mine = again.ingest(DIGEST)
    assert again.sweep_ingests() == [os.path.basename(left)]
    assert again.sweep_ingests() == []
    assert os.listdir(f"{content.directory}/ingest") == [os.path.basename(mine)]
    again.discard(mine)
    again.discard(mine)
    assert os.listdir(f"{content.directory}/ingest") == []
    await again.close()


class Held(InlineOffload):
    """Calls begin when they may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may = asyncio.Event(), asyncio.Event()

    async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
        self.begun.set()
        await self.may.wait()
        return await super().call(fn, *args, timeout=timeout)


@pytest.mark.parametrize("document", [False, True])
async def test_a_blob_whose_caller_left_is_known(tmp_path: Path, document: bool) -> None:
    """Else it would take space until the next start: collection removes what is known."""
    worker = Held()
    content = Content(str(tmp_path), worker)
    if document:
        writing = asyncio.ensure_future(content.write(DIGEST, DATA))
    else:
        ingest = content.ingest(DIGEST)
        Path(ingest).write_bytes(DATA)
        writing = asyncio.ensure_future(content.commit(ingest, DIGEST, len(DATA)))
    await worker.begun.wait()
    writing.cancel()
    await asyncio.wait([writing])
    assert writing.cancelled()
    worker.may.set()
    async with asyncio.timeout(10):
        while not os.path.exists(content.path(DIGEST)):
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert content.digests() == {DIGEST: len(DATA)}


async def test_only_a_damaged_blob_is_forgotten(content: Content) -> None:
    await store(content)
    await content.verify(DIGEST)
    assert content.exists(DIGEST)
    Path(content.path(DIGEST)).write_bytes(DATA[::-1])
    await content.verify(DIGEST)
    await content.verify(DIGEST)
    assert not content.exists(DIGEST)


async def test_the_index_names_images(content: Content) -> None:
    entry = Entry(media_type=MANIFEST, digest=DIGEST, size=10, platform=Platform(architecture="amd64", os="linux"))
    await content.write_index([named(entry, "docker.io/library/busybox:1"), entry])
    plain = {
        "mediaType": MANIFEST,
        "digest": DIGEST,
        "size": 10,
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    names = {
        "org.opencontainers.image.ref.name": "docker.io/library/busybox:1",
        "io.containerd.image.name": "docker.io/library/busybox:1",
    }
    assert index(content) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**plain, "annotations": names}, plain],
    }


async def test_an_index_whose_writing_was_cut_off_is_written_again(tmp_path: Path) -> None:
    class Cut(InlineOffload):
        async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
            done = await super().call(fn, *args, timeout=timeout)
            if len(self.calls) == 1:
                raise RopewalkError("too late", kind=Kind.TIMEOUT)
            return done

    content = Content(str(tmp_path), Cut())
    await content.write_index([])
    with pytest.raises(RopewalkError):
        await content.write_index([Entry(media_type=MANIFEST, digest=DIGEST, size=10)])
    await content.write_index([])
    assert index(content)["manifests"] == []


async def test_an_unchanged_index_is_not_written(content: Content, tmp_path: Path) -> None:
    """Nor by the next daemon: it would start a worker for it, which waits 30 s for another call."""
    await content.write_index([Entry(media_type=MANIFEST, digest=DIGEST, size=10)])
    worker = InlineOffload()
    again = Content(content.directory, worker)
    await again.write_index([Entry(media_type=MANIFEST, digest=DIGEST, size=10)])
    assert worker.calls == []
    Path(content.directory, "index.json").write_bytes(b"of others")
    await Content(content.directory, worker).write_index([Entry(media_type=MANIFEST, digest=DIGEST, size=10)])
    assert worker.calls == ["write_index"]
    await content.write_index([])
    before = os.stat(f"{content.directory}/index.json").st_ino
    await content.write_index([])
    assert os.stat(f"{content.directory}/index.json").st_ino == before
