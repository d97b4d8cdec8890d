"""Whole pulls from a registry that counts and lies: what is on disk afterwards, and what is not."""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.progress import PullProgress
from ropewalk.linux import mount
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.oci import File, directory, symlink
from tests.node.images.conftest import Gate, Reopen, Store, image_of

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
BASE = oci.layer(
    [
        directory("./", 0o755),
        directory("etc"),
        File("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n"),
        File("etc/group", b"root:x:0:\nweb:x:33:\n"),
        directory("tmp", 0o1777),
        directory("var/lib/data", 0o750, uid=33, gid=33),
        File("var/lib/data/old", b"old"),
        File("var/lib/keep", b"keep"),
        File("bin/ping", b"#!", mode=0o4755),
        File("bin/serve", b"#!", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}),
        File("gone", b"x"),
        symlink("usr/lib", "/lib"),
    ]
)
NEXT = oci.layer(
    [
        File(".wh.gone"),
        File("var/lib/data/.wh..wh..opq"),
        File("var/lib/data/new", b"new", uid=33, gid=33),
        File("tmp/x", b"x"),
        File("dev/null", type=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
        File("dev/pipe", type=tarfile.FIFOTYPE, mode=0o600),
        oci.hard_link("bin/again", "tmp/x"),
        File("forged", type=tarfile.CHRTYPE, device=(0, 0)),
    ],
    "zstd",
)
TOP = oci.layer([File("etc/passwd", b"top:x:1:1::/:\n"), File("top", b"t")], "")
IMAGE = oci.Image([BASE, NEXT, TOP], {"User": "web"})


async def test_an_image_is_on_disk_as_its_layers_say(images: Store, fake: fakes.Registry, mountpoint: Path) -> None:
    fake.add("1", IMAGE)
    id = await images.puller.pull(f"{fake.host}/test/image:1")
    image = images.images.find(id)
    assert image is not None
    assert (id, image.tags, image.digests) == (
        IMAGE.id,
        [f"{fake.host}/test/image:1"],
        [f"{fake.host}/test/image@{IMAGE.digest}"],
    )
    assert image.size == sum(len(blob) for blob in IMAGE.blobs.values())
    assert (image.passwd, image.group) == (b"top:x:1:1::/:\n", b"root:x:0:\nweb:x:33:\n")
    assert (image.uid, image.username) == (None, "web")
    root = await images.mounted(image, mountpoint)
    assert sorted(os.listdir(root)) == ["bin", "dev", "etc", "tmp", "top", "usr", "var"]
    assert os.listdir(root / "var/lib/data") == ["new"]
    assert (root / "var/lib/keep").read_bytes() == b"keep"
    assert stat.S_IMODE((root / "bin/ping").stat().st_mode) == 0o4755
    assert os.getxattr(root / "bin/serve", "security.capability") == CAPABILITY
    assert os.stat(root / "dev/null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((root / "dev/pipe").stat().st_mode)
    assert (root / "tmp/x").stat().st_ino == (root / "bin/again").stat().st_ino
    assert os.readlink(root / "usr/lib") == "/lib"
    assert images.left_behind() == ["test-mounted"]


async def test_directories_that_a_layer_only_implies_keep_what_they_are(
    images: Store, fake: fakes.Registry, mountpoint: Path
) -> None:
    """NEXT has tmp/x without tmp, and an opaque var/lib/data that it does not describe."""
    fake.add("1", IMAGE)
    image = images.images.find(await images.puller.pull(f"{fake.host}/test/image:1"))
    assert image is not None
    root = await images.mounted(image, mountpoint)
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "tmp").stat().st_mtime == 1_700_000_000
    data = (root / "var/lib/data").stat()
    assert (stat.S_IMODE(data.st_mode), data.st_uid, data.st_gid) == (0o750, 33, 33)


async def test_a_directory_that_was_removed_between_is_a_new_one(
    images: Store, fake: fakes.Registry, mountpoint: Path
) -> None:
    removals = oci.layer([File(".wh.tmp"), File("var/lib/.wh..wh..opq")])
    files = oci.layer([File("tmp/x", b"x"), File("var/lib/data/x", b"x")])
    fake.add("1", oci.Image([BASE, removals, files]))
    image = images.images.find(await images.puller.pull(f"{fake.host}/test/image:1"))
    assert image is not None
    root = await images.mounted(image, mountpoint)
    for name in ("tmp", "var/lib/data"):
        status = (root / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, os.listdir(root / name)) == (0o755, 0, ["x"]), name


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_the_store_is_an_oci_layout_that_skopeo_and_umoci_read(
    images: Store, fake: fakes.Registry, docker: bool
) -> None:
    layers = [oci.layer([File("a", b"a")], media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")]
    made = oci.Image(layers, docker=True) if docker else IMAGE
    fake.add("1", made)
    await images.puller.pull(f"{fake.host}/test/image:1")
    assert set(images.content.digests()) == {*made.blobs, made.digest}
    if not docker:
        name = f"{images.content.directory}:{fake.host}/test/image:1"
        inspected = await _output("skopeo", "inspect", f"oci:{name}")
        assert made.layers[0].digest in inspected
        assert f"{fake.host}/test/image:1" in await _output("umoci", "ls", "--layout", images.content.directory)


async def _output(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_equal_pulls_share_one_transfer(images: Store, fake: fakes.Registry) -> None:
    fake.add("1", IMAGE)
    ids = await asyncio.gather(*(images.puller.pull(f"{fake.host}/test/image:1") for _ in range(8)))
    assert set(ids) == {IMAGE.id}
    assert len(fake.asked()) == len(IMAGE.blobs) + 1


async def test_images_that_share_layers_fetch_them_once(images: Store, fake: fakes.Registry) -> None:
    shared = [oci.layer([File(f"shared{n}", os.urandom(2_000_000))], "") for n in range(2)]
    made = [image_of(f"own{n}", below=shared) for n in range(4)]
    for number, image in enumerate(made):
        fake.add(str(number), image)
    await asyncio.gather(*(images.puller.pull(f"{fake.host}/test/image:{n}") for n in range(4)))
    for layer in shared:
        assert len(fake.asked(ending=layer.digest)) == 1
    await images.undone()


async def test_one_blob_twice_in_an_image_is_fetched_once(images: Store, fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([TOP, BASE, TOP, TOP]))
    await images.puller.pull(f"{fake.host}/test/image:1")
    assert len(fake.asked(ending=TOP.digest)) == 1


async def test_a_second_compression_of_a_layer_is_fetched_but_not_unpacked(images: Store, fake: fakes.Registry) -> None:
    plain = oci.archive([File("a", b"a")])
    for tag, compression in (("1", "gzip"), ("2", "zstd")):
        fake.add(tag, oci.Image([oci.layer(plain, compression)]))
        await images.puller.pull(f"{fake.host}/test/image:{tag}")
    (layer,) = images.images.layers
    assert len(layer.blobs) == 2
    assert all(images.content.exists(digest) for digest in layer.blobs)


async def test_a_pull_waits_once_for_the_rows_to_be_on_disk(
    images: Store, fake: fakes.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the event loop, beside workers that write all they can: each time holds up every call for up to 0.2 s."""
    durable: list[str] = []
    put = images.database.put

    def counted(table: str, id: str, document: bytes, **how: bool) -> None:
        durable.extend([table] * how.get("durable", False))
        put(table, id, document, **how)

    monkeypatch.setattr(images.database, "put", counted)
    fake.add("1", IMAGE)
    await images.puller.pull(f"{fake.host}/test/image:1")
    assert durable == ["images"]


async def test_an_image_without_layers(images: Store, fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([]))
    image = images.images.find(await images.puller.pull(f"{fake.host}/test/image:1"))
    assert image is not None
    assert image.chain_id == ""


async def test_a_hundred_layers(images: Store, fake: fakes.Registry, mountpoint: Path) -> None:
    fake.add("1", oci.Image([oci.layer([File(f"f{n}", b"x")]) for n in range(100)]))
    image = images.images.find(await images.puller.pull(f"{fake.host}/test/image:1"))
    assert image is not None
    assert len(os.listdir(await images.mounted(image, mountpoint))) == 100


async def test_pulling_again_asks_once_and_follows_a_moved_tag(images: Store, fake: fakes.Registry) -> None:
    reference = f"{fake.host}/test/image:1"
    fake.add("1", IMAGE)
    await images.puller.pull(reference)
    fake.requests.clear()
    assert await images.puller.pull(reference) == IMAGE.id
    assert [r.method for r in fake.requests] == ["HEAD"]
    other = image_of("other", 1000)
    fake.add("1", other)
    assert await images.puller.pull(reference) == other.id
    old = images.images.find(IMAGE.id)
    assert old is not None
    assert old.tags == []


async def test_what_is_damaged_on_disk_is_fetched_again(images: Store, fake: fakes.Registry) -> None:
    reference = f"{fake.host}/test/image:1"
    made = image_of("f", 1000)
    fake.add("1", made)
    await images.puller.pull(reference)
    images.images.remove(reference)
    await images.snapshotter.remove(made.layers[0].diff_id)
    blob = Path(images.content.path(made.layers[0].digest))
    blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(RopewalkError) as caught:
        await images.puller.pull(reference)
    assert caught.value.kind is Kind.CORRUPT
    assert await images.puller.pull(reference) == made.id


async def test_an_image_that_lies_about_a_layer_takes_nothing_from_another(images: Store, fake: fakes.Registry) -> None:
    reference = f"{fake.host}/test/image:1"
    fake.add("1", IMAGE)
    fake.add("lie", oci.Image([BASE._replace(diff_id=oci.sha256(b"other"))]))
    await images.puller.pull(reference)
    with pytest.raises(RopewalkError) as caught:
        await images.puller.pull(f"{fake.host}/test/image:lie")
    assert caught.value.kind is Kind.CORRUPT
    assert images.content.exists(BASE.digest)


async def test_removal_frees_what_nothing_else_needs(images: Store, fake: fakes.Registry) -> None:
    shared = oci.layer([File("shared", os.urandom(100_000))], "")
    for number in range(2):
        fake.add(str(number), image_of(f"own{number}", 100_000, [shared]))
        await images.puller.pull(f"{fake.host}/test/image:{number}")
    images.images.remove(f"{fake.host}/test/image:0")
    await images.puller.collect([])
    assert images.content.exists(shared.digest)
    assert len(images.snapshotter.list()) == 2
    images.images.remove(f"{fake.host}/test/image:1")
    await images.puller.collect([])
    assert images.content.digests() == {}
    assert images.snapshotter.list() == []
    assert list(images.images.layers) == []
    assert images.images.usage().bytes == 0
    async with asyncio.timeout(30):
        while _bytes_below(images.root / "snapshots") + _bytes_below(images.root / "content"):
            await asyncio.sleep(0.02)


def _bytes_below(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and path.lstat().st_size > 5000)


async def test_progress_is_told_in_bytes(images: Store, fake: fakes.Registry) -> None:
    made = image_of("f", 20_000_000)
    fake.add("1", made)
    seen: list[PullProgress] = []

    async def watch() -> None:
        async for report in images.puller.watch(f"{fake.host}/test/image:1"):
            seen.append(report)
            if report.done:
                return

    watcher = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    await images.puller.pull(f"{fake.host}/test/image:1")
    await watcher
    (layer,) = seen[-1].layers
    assert layer.fetched == layer.total == len(made.layers[0].blob)
    assert images.puller.progress() == []


# -- what goes wrong leaves nothing


def swap_layer(fake: fakes.Registry, blob: bytes) -> None:
    fake.blobs[IMAGE.layers[1].digest] = blob


def wrong_bytes(fake: fakes.Registry) -> None:
    good = IMAGE.layers[1].blob
    swap_layer(fake, good[:-20] + bytes(20))


def too_short(fake: fakes.Registry) -> None:
    swap_layer(fake, IMAGE.layers[1].blob[:-1])


def too_long(fake: fakes.Registry) -> None:
    swap_layer(fake, IMAGE.layers[1].blob + b"x")


def wrong_diff_id(fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([BASE, NEXT._replace(diff_id=oci.sha256(b"other")), TOP]))


def hostile(fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([BASE, oci.layer([File("../../escape", b"x")]), TOP]))


def no_archive(fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([BASE, oci.layer(b"this is no archive" * 1000), TOP]))


def bomb(fake: fakes.Registry) -> None:
    plain = oci.archive([File("zero", bytes(70 << 20))])
    fake.add("1", oci.Image([BASE, oci.layer(plain, "zstd"), TOP]))


def many_files(fake: fakes.Registry) -> None:
    fake.add("1", oci.Image([BASE, oci.layer([File(f"f{n}") for n in range(1001)]), TOP]))


def missing_layer(fake: fakes.Registry) -> None:
    del fake.blobs[IMAGE.layers[1].digest]


def gone_registry(fake: fakes.Registry) -> None:
    fake.script = lambda request, answer: request.path.endswith(NEXT.digest) and answer.cut()


def stalled(fake: fakes.Registry) -> None:
    fake.script = lambda request, answer: (request.path.endswith(NEXT.digest) and fake.stopped.wait(20)) or False


@pytest.mark.parametrize(
    ("lie", "kind"),
    [
        (wrong_bytes, Kind.CORRUPT),
        (too_short, Kind.CORRUPT),
        (too_long, Kind.CORRUPT),
        (wrong_diff_id, Kind.CORRUPT),
        (hostile, Kind.CORRUPT),
        (no_archive, Kind.CORRUPT),
        (bomb, Kind.EXHAUSTED),
        (many_files, Kind.EXHAUSTED),
        (missing_layer, Kind.NOT_FOUND),
        (gone_registry, Kind.UNAVAILABLE),
        (stalled, Kind.UNAVAILABLE),
    ],
)
async def test_a_bad_layer_fails_the_pull_and_leaves_nothing(
    reopen: Reopen, fake: fakes.Registry, lie: object, kind: Kind
) -> None:
    assert callable(lie)
    images = await reopen(stall=1.0 if lie is stalled else 30.0)
    fake.add("1", IMAGE)
    lie(fake)
    with pytest.raises(RopewalkError) as caught:
        await images.puller.pull(f"{fake.host}/test/image:1")
    assert caught.value.kind is kind, caught.value
    assert images.images.list() == []
    await images.undone()
    assert not (images.root / "escape").exists()
    await images.puller.collect([])
    assert (images.content.digests(), images.snapshotter.list()) == ({}, [])
    fake.script = lambda request, answer: False
    fake.add("1", IMAGE)
    assert await images.puller.pull(f"{fake.host}/test/image:1") == IMAGE.id


async def test_a_cancelled_pull_leaves_nothing_and_the_next_one_works(images: Store, fake: fakes.Registry) -> None:
    made = image_of("f", below=[BASE])
    fake.add("1", made)
    gate = Gate(fake, made.layers[1].digest)
    pulling = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:1"))
    await gate.reached.wait()
    pulling.cancel()  # what a deadline does too
    with pytest.raises(asyncio.CancelledError):
        await pulling
    await images.undone()
    assert images.images.list() == []
    gate.open()
    assert await images.puller.pull(f"{fake.host}/test/image:1") == made.id


async def test_a_pull_goes_on_while_anybody_wants_it(images: Store, fake: fakes.Registry) -> None:
    """Also a layer: the image whose pull began it is given up, another image's pull waits for it."""
    shared = oci.layer([File("shared", os.urandom(2_000_000))], "")
    one, two = oci.Image([shared]), image_of("own", 1000, [shared])
    fake.add("1", one)
    fake.add("2", two)
    gate = Gate(fake, shared.digest)
    first = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:1"))
    await gate.reached.wait()
    second = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:2"))
    async with asyncio.timeout(30):
        while len(fake.asked(ending=two.layers[1].digest)) == 0:
            await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()
    fake.stopped.set()  # cut: the worker goes on where it stopped
    assert await second == two.id
    await images.undone()


async def test_a_pull_right_after_a_cancelled_one_does_not_fall_into_it(images: Store, fake: fakes.Registry) -> None:
    made = image_of("f")
    fake.add("1", made)
    gate = Gate(fake, made.layers[0].digest)
    pulling = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:1"))
    await gate.reached.wait()
    gate.open()
    pulling.cancel()
    await asyncio.sleep(0)
    assert await images.puller.pull(f"{fake.host}/test/image:1") == made.id
    await images.undone()


async def test_a_killed_worker_fails_the_pull_cleanly(images: Store, fake: fakes.Registry) -> None:
    made = image_of("f")
    fake.add("1", made)
    gate = Gate(fake, made.layers[0].digest)
    pulling = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:1"))
    await gate.reached.wait()
    for worker in images.workers._all:
        worker._process.kill()
    with pytest.raises(RopewalkError) as caught:
        await pulling
    assert caught.value.kind is Kind.UNAVAILABLE
    await images.undone()


async def test_a_full_disk_is_said_and_leaves_room(reopen: Reopen, fake: fakes.Registry, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount.tmpfs(str(small), size=24 << 20, mode=0o755)
    try:
        images = await reopen(root=small)
        fake.add("big", image_of("f", 40_000_000))
        fake.add("small", image_of("f", 1_000_000))
        with pytest.raises(RopewalkError) as caught:
            await images.puller.pull(f"{fake.host}/test/image:big")
        assert caught.value.kind is Kind.EXHAUSTED
        await images.undone()
        async with asyncio.timeout(30):
            while os.statvfs(small).f_bavail * 4096 < 20 << 20:
                await asyncio.sleep(0.02)
        await images.puller.pull(f"{fake.host}/test/image:small")
        await reopen()  # closes the one on the full file system
    finally:
        mount.umount_all(str(small))
