"""Other people's programs read the content store in place."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.linux.offload import Offload
from ropewalk.storage.content import Content, Entry, Platform, named

REFERENCE = "docker.io/library/busybox:1"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
AMD64 = Platform(architecture="amd64", os="linux")


class Store:
    """A content store, and images put into it as a pull would."""

    def __init__(self, directory: Path) -> None:
        self.offload = Offload(2)
        self.content = Content(str(directory), self.offload)

    async def put(self, data: bytes) -> tuple[str, int]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        ingest = self.content.ingest(digest)
        Path(ingest).write_bytes(data)
        await self.content.commit(ingest, digest, len(data))
        return digest, len(data)

    async def image(self, text: str, *, docker: bool = False) -> Entry:
        """An image of one uncompressed layer with the file `hello`."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            info = tarfile.TarInfo("hello")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        kind = "application/vnd.docker" if docker else "application/vnd.oci"
        layer, layer_size = await self.put(stream.getvalue())
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}}
        config_digest, config_size = await self.put(
            json.dumps({**config, "config": {"Labels": {"text": text}}}).encode()
        )
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else MANIFEST,
            "config": {
                "mediaType": kind + (".container.image.v1+json" if docker else ".image.config.v1+json"),
                "digest": config_digest,
                "size": config_size,
            },
            "layers": [
                {
                    "mediaType": kind + (".image.rootfs.diff.tar" if docker else ".image.layer.v1.tar"),
                    "digest": layer,
                    "size": layer_size,
                }
            ],
        }
        digest, size = await self.put(json.dumps(manifest).encode())
        return Entry(media_type=DOCKER_MANIFEST if docker else MANIFEST, digest=digest, size=size, platform=AMD64)

    async def index(self, entry: Entry) -> Entry:
        """An index of two platforms, of which only one has been pulled."""
        absent = "sha256:" + "a" * 64
        document = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": absent,
                    "size": 7,
                    "platform": {"architecture": "arm64", "os": "linux"},
                },
                {
                    "mediaType": MANIFEST,
                    "digest": entry.digest,
                    "size": entry.size,
                    "platform": {"architecture": "amd64", "os": "linux"},
                },
            ],
        }
        digest, size = await self.put(json.dumps(document).encode())
        return Entry(media_type=INDEX, digest=digest, size=size)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "content")
    yield store
    await store.content.close()
    await store.offload.close()


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


async def publish(store: Store) -> None:
    """Two names, a name of an index, a nameless image, and a Docker schema 2 image beside them."""
    first, second, nameless = [await store.image(text) for text in ("one", "two", "three")]
    await store.content.write_index(
        [
            named(first, REFERENCE),
            named(second, "registry.example:5000/a/b:2"),
            named(await store.index(first), "docker.io/library/many:1"),
            nameless,
            named(await store.image("docker", docker=True), "docker.io/library/schema2:1"),
        ]
    )


async def test_skopeo_reads_every_image_in_place(store: Store) -> None:
    need("skopeo")
    await publish(store)
    for reference, text in (
        (REFERENCE, "one"),
        ("registry.example:5000/a/b:2", "two"),
        ("docker.io/library/many:1", "one"),
    ):
        found = json.loads(run("skopeo", "inspect", f"oci:{store.content.directory}:{reference}"))
        assert found["Labels"] == {"text": text}
        assert found["Architecture"] == "amd64"


async def test_skopeo_copies_out_what_went_in(store: Store, tmp_path: Path) -> None:
    need("skopeo")
    await publish(store)
    copy = tmp_path / "copy"
    run(
        "skopeo", "copy", "--quiet", "--preserve-digests", f"oci:{store.content.directory}:{REFERENCE}", f"oci:{copy}:x"
    )
    for blob in (copy / "blobs/sha256").iterdir():
        assert store.content.exists(f"sha256:{blob.name}", blob.stat().st_size)


async def test_umoci_lists_and_unpacks(store: Store, tmp_path: Path) -> None:
    need("umoci")
    await publish(store)
    listed = run("umoci", "ls", "--layout", store.content.directory).split()
    assert {REFERENCE, "registry.example:5000/a/b:2", "docker.io/library/many:1"} <= set(listed)
    run("umoci", "unpack", "--image", f"{store.content.directory}:{REFERENCE}", str(tmp_path / "bundle"))
    assert (tmp_path / "bundle/rootfs/hello").read_text() == "one"


async def test_another_programs_garbage_collection_keeps_our_images(store: Store) -> None:
    """Also those that have no name any more, and what is being ingested. umoci does not follow Docker's schema 2:
    each blob of such an image needs a descriptor, of a type that nobody follows."""
    need("umoci")
    named_, nameless = named(await store.image("one"), REFERENCE), await store.image("nameless")
    others = set(store.content.digests())
    docker = await store.image("docker", docker=True)
    blobs = {digest: size for digest, size in store.content.digests().items() if digest not in others}
    kept = [Entry(media_type="application/octet-stream", digest=digest, size=size) for digest, size in blobs.items()]
    await store.content.write_index([named_, nameless, docker, *kept])
    ingest = store.content.ingest("sha256:" + "b" * 64)
    before = set(store.content.digests())
    run("umoci", "gc", "--layout", store.content.directory)
    assert set(Content(store.content.directory, store.offload).digests()) == before
    assert os.path.exists(ingest)
    assert json.loads(run("skopeo", "inspect", f"oci:{store.content.directory}:{REFERENCE}"))["Labels"]


async def test_another_programs_garbage_collection_refuses_what_it_cannot_follow(store: Store) -> None:
    """An index of which only one platform was pulled: umoci says so and removes nothing."""
    need("umoci")
    await publish(store)
    before = set(store.content.digests())
    done = subprocess.run(["umoci", "gc", "--layout", store.content.directory], capture_output=True, timeout=60)
    assert b"no such file" in done.stderr
    assert set(Content(store.content.directory, store.offload).digests()) == before


async def test_a_reader_never_sees_half_an_index(store: Store) -> None:
    need("skopeo")
    entry = await store.image("one")
    await store.content.write_index([named(entry, REFERENCE)])
    reader = subprocess.Popen(
        ["skopeo", "inspect", f"oci:{store.content.directory}:{REFERENCE}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for number in range(100):
        names = [named(entry, f"docker.io/library/other:{tag}") for tag in range(number)]
        await store.content.write_index([*names, named(entry, REFERENCE)])
        json.loads(Path(store.content.directory, "index.json").read_bytes())
    _, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
