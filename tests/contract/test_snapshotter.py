"""Every snapshotter keeps the contract of storage/snapshotter.py, over real mounts."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.linux import mount
from ropewalk.state.database import Database
from ropewalk.storage.snapshotter import Info, Mount, SnapshotKind, Usage
from ropewalk.storage.snapshotters import native, overlay
from ropewalk.storage.snapshotters.directories import DirectorySnapshotter as Snapshotter
from tests.fakes.inline import InlineOffload

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

OPAQUE = "trusted.overlay.opaque"
CAPABILITY = "security.capability"
NET_BIND = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, VFS_CAP_REVISION_2
Restart = Callable[[], Awaitable[Snapshotter]]


@pytest.fixture(params=[overlay.Snapshotter, native.Snapshotter], ids=lambda kind: str(kind.name))
async def restart(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Restart]:
    """Each call is the daemon after a kill: nothing of the one before is closed in an orderly way but its lock."""
    databases: list[Database] = []
    running: list[Snapshotter] = []

    async def start() -> Snapshotter:
        for database in databases:
            database.close()
        databases[:] = [Database(str(tmp_path / "state.db"))]
        snapshotter: Snapshotter = request.param(str(tmp_path / "snapshots"), databases[0], InlineOffload())
        await snapshotter.start()
        running.append(snapshotter)
        return snapshotter

    yield start
    for snapshotter in running:
        await snapshotter.close()
    for database in databases:
        database.close()


@pytest.fixture
async def snapshotter(restart: Restart) -> Snapshotter:
    return await restart()


@contextlib.contextmanager
def mounted(mounts: list[Mount], where: Path) -> Iterator[Path]:
    (wanted,) = mounts
    where.mkdir(exist_ok=True)
    if wanted.type == "bind":
        mount.bind(wanted.source, str(where), read_only="ro" in wanted.options)
    else:
        assert wanted.type == "overlay"
        mount.overlay(str(where), layers=wanted.layers, upper=wanted.upper, work=wanted.work, options=wanted.options)
    try:
        yield where
    finally:
        mount.umount(str(where))


async def layer(snapshotter: Snapshotter, name: str, parent: str, unpack: Callable[[Path], object]) -> None:
    await snapshotter.prepare(f"extract {name}", parent)
    unpack(Path(snapshotter.directory(f"extract {name}")))
    await snapshotter.commit(name, f"extract {name}")


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def two_layers(snapshotter: Snapshotter) -> None:
    def base(root: Path) -> None:
        for name in ("kept", "hidden", "replaced"):
            (root / name).write_text(f"base {name}")
        for name in ("merged", "opaque", "file-later"):
            (root / name).mkdir()
            (root / name / "old").write_text("base")
        (root / "directory-later").write_text("base")

    def top(root: Path) -> None:
        whiteout(root / "hidden")
        (root / "replaced").write_text("top")
        (root / "merged").mkdir()
        (root / "merged/new").write_text("top")
        (root / "opaque").mkdir()
        (root / "opaque/new").write_text("top")
        os.setxattr(root / "opaque", OPAQUE, b"y")
        (root / "file-later").write_text("top")
        (root / "directory-later").mkdir()
        (root / "directory-later/new").write_text("top")

    await layer(snapshotter, "base", "", base)
    await layer(snapshotter, "top", "base", top)


async def test_a_container_sees_the_layers_of_its_image(snapshotter: Snapshotter, tmp_path: Path) -> None:
    await two_layers(snapshotter)
    with mounted(await snapshotter.prepare("container", "top"), tmp_path / "root") as root:
        assert listing(root) == [
            "directory-later", "directory-later/new", "file-later", "kept", "merged", "merged/new", "merged/old",
            "opaque", "opaque/new", "replaced",
        ]  # fmt: skip
        assert (root / "replaced").read_text() == "top"
        assert (root / "kept").read_text() == "base kept"


async def test_what_a_container_writes_stays_its_own(snapshotter: Snapshotter, tmp_path: Path) -> None:
    await two_layers(snapshotter)
    with mounted(await snapshotter.prepare("one", "top"), tmp_path / "one") as one:
        (one / "kept").write_text("changed")
        (one / "merged/old").unlink()
        with mounted(await snapshotter.prepare("two", "top"), tmp_path / "two") as two:
            assert (two / "kept").read_text() == "base kept"
            assert (two / "merged/old").exists()
        assert (one / "kept").read_text() == "changed"


async def test_mounts_may_be_taken_again(snapshotter: Snapshotter, tmp_path: Path) -> None:
    await two_layers(snapshotter)
    with mounted(await snapshotter.prepare("container", "top"), tmp_path / "root") as root:
        (root / "written").write_text("here")
    for again in (snapshotter.prepare("container", "top"), snapshotter.mounts("container")):
        with mounted(await again, tmp_path / "root") as root:
            assert (root / "written").read_text() == "here"


@pytest.mark.parametrize("parent", ["base", "top"])
async def test_a_view_cannot_be_written(snapshotter: Snapshotter, tmp_path: Path, parent: str) -> None:
    await two_layers(snapshotter)
    with mounted(await snapshotter.view("look", parent), tmp_path / "root") as root:
        assert (root / "kept").read_text() == "base kept"
        with pytest.raises(OSError):
            (root / "kept").write_text("no")
    assert await snapshotter.stat("look") == Info(SnapshotKind.VIEW, "look", parent)


async def test_a_layer_may_be_unpacked_before_its_parent(snapshotter: Snapshotter, tmp_path: Path) -> None:
    assert await snapshotter.prepare("upper", parent="base") == []
    with pytest.raises(NotFound):
        await snapshotter.mounts("upper")
    await snapshotter.prepare("lower", parent="")
    (Path(snapshotter.directory("upper")) / "a").write_text("upper")
    (Path(snapshotter.directory("lower")) / "a").write_text("lower")
    (Path(snapshotter.directory("lower")) / "b").write_text("lower")
    with pytest.raises(WrongState, match="bottom-up"):
        await snapshotter.commit("top", key="upper")
    await snapshotter.commit("base", key="lower")
    await snapshotter.commit("top", key="upper")
    assert (await snapshotter.stat("top")).parent == "base"
    with mounted(await snapshotter.view("look", "top"), tmp_path / "root") as root:
        assert (root / "a").read_text() == "upper"
        assert (root / "b").read_text() == "lower"


async def test_a_root_directory_that_no_layer_names_is_its_parents(snapshotter: Snapshotter, tmp_path: Path) -> None:
    def base(root: Path) -> None:
        root.chmod(0o555)
        os.chown(root, 0, 7)

    await snapshotter.prepare("early", "base")
    await layer(snapshotter, "base", "", base)
    await snapshotter.commit("top", "early")
    with mounted(await snapshotter.prepare("container", "top"), tmp_path / "root") as root:
        assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_gid) == (0o555, 7)


async def test_everything_about_a_file_is_kept(snapshotter: Snapshotter, tmp_path: Path) -> None:
    def base(root: Path) -> None:
        (root / "setuid").write_text("x")
        os.chown(root / "setuid", 1, 2)
        os.chmod(root / "setuid", 0o4755)
        os.setxattr(root / "setuid", CAPABILITY, NET_BIND)
        os.setxattr(root / "setuid", "user.note", b"kept")
        os.link(root / "setuid", root / "linked")
        os.symlink("/etc/passwd", root / "symlink")
        os.lchown(root / "symlink", 3, 4)
        os.mkfifo(root / "fifo", 0o620)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(root):
            server.bind("socket")
        with open(root / "sparse", "wb") as file:
            file.truncate(1 << 40)
            file.seek(1 << 30)
            file.write(b"in the middle")
        (root / "directory").mkdir(mode=0o1777)
        os.utime(root / "setuid", ns=(1_000_000_000, 2_000_000_001))
        os.utime(root / "directory", ns=(1_000_000_000, 3_000_000_001))

    await layer(snapshotter, "base", "", base)
    await layer(snapshotter, "top", "base", lambda root: (root / "more").write_text("x"))
    with mounted(await snapshotter.prepare("container", "top"), tmp_path / "root") as root:
        found = (root / "setuid").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4755, 1, 2)
        assert (found.st_mtime_ns, found.st_nlink) == (2_000_000_001, 2)
        assert os.getxattr(root / "setuid", CAPABILITY) == NET_BIND
        assert os.getxattr(root / "setuid", "user.note") == b"kept"
        assert os.path.samefile(root / "setuid", root / "linked")
        assert os.readlink(root / "symlink") == "/etc/passwd"
        assert (root / "symlink").lstat().st_uid == 3
        assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert stat.S_ISSOCK((root / "socket").stat().st_mode)
        assert (root / "sparse").stat().st_size == 1 << 40
        assert (root / "sparse").stat().st_blocks * 512 < 1 << 20
        with open(root / "sparse", "rb") as file:
            file.seek(1 << 30)
            assert file.read(13) == b"in the middle"
        assert (root / "directory").stat().st_mtime_ns == 3_000_000_001


async def test_a_hundred_layers_can_be_mounted(snapshotter: Snapshotter, tmp_path: Path) -> None:
    parent = ""
    for number in range(100):
        name = f"sha256:{number:064x}"
        await layer(snapshotter, name, parent, lambda root, n=number: (root / f"file{n}").touch())  # type: ignore[misc]
        parent = name
    with mounted(await snapshotter.prepare("container", parent), tmp_path / "root") as root:
        assert len(listing(root)) == 100


async def test_prepare_and_commit_may_be_repeated(snapshotter: Snapshotter) -> None:
    await layer(snapshotter, "base", "", lambda root: (root / "a").touch())
    first = await snapshotter.prepare("container", "base")
    assert await snapshotter.prepare("container", "base") == first
    assert await snapshotter.mounts("container") == first
    await snapshotter.prepare("again", "")
    await snapshotter.commit("base", "again")
    await snapshotter.commit("base", "again")
    assert sorted(info.name for info in snapshotter.list()) == ["base", "container"]


async def test_a_key_names_one_thing(snapshotter: Snapshotter) -> None:
    await layer(snapshotter, "base", "", lambda _: None)
    await snapshotter.prepare("key", "base")
    for attempt in (
        snapshotter.prepare("key", ""),
        snapshotter.view("key", "base"),
        snapshotter.prepare("base", ""),
        snapshotter.commit("key", "key"),
    ):
        with pytest.raises(RopewalkError) as caught:
            await attempt
        assert caught.value.kind is Kind.EXISTS


async def test_what_is_absent(snapshotter: Snapshotter) -> None:
    await snapshotter.remove("nothing")
    assert snapshotter.list() == []
    for attempt in (
        snapshotter.stat("nothing"),
        snapshotter.mounts("nothing"),
        snapshotter.usage("nothing"),
        snapshotter.commit("name", "nothing"),
        snapshotter.view("key", "nothing"),
    ):
        with pytest.raises(NotFound):
            await attempt
    with pytest.raises(NotFound):
        snapshotter.directory("nothing")


async def test_a_parent_cannot_be_removed(snapshotter: Snapshotter) -> None:
    await two_layers(snapshotter)
    await snapshotter.prepare("container", "top")
    for name in ("top", "base"):
        with pytest.raises(WrongState, match="parent"):
            await snapshotter.remove(name)
    for name in ("container", "top", "base"):
        await snapshotter.remove(name)
    assert snapshotter.list() == []


async def test_what_is_removed_frees_its_bytes(snapshotter: Snapshotter, tmp_path: Path) -> None:
    await two_layers(snapshotter)
    with mounted(await snapshotter.prepare("container", "top"), tmp_path / "root") as root:
        (root / "large").write_bytes(b"x" * (4 << 20))
    for name in ("container", "top", "base"):
        await snapshotter.remove(name)
    await snapshotter.emptied()
    assert listing(tmp_path / "snapshots") == ["trash"]


async def test_only_an_active_snapshot_is_committed(snapshotter: Snapshotter) -> None:
    await layer(snapshotter, "base", "", lambda _: None)
    await snapshotter.view("look", "base")
    with pytest.raises(WrongState):
        await snapshotter.commit("name", "look")
    with pytest.raises(WrongState):
        await snapshotter.mounts("base")


async def test_usage_is_a_layers_own(snapshotter: Snapshotter) -> None:
    await layer(snapshotter, "base", "", lambda root: (root / "a").write_bytes(b"x" * (1 << 20)))
    base = await snapshotter.usage("base")
    assert 1 << 20 <= base.bytes < 2 << 20
    assert base.inodes == 2
    await snapshotter.prepare("container", "base")
    assert await snapshotter.usage("container") == Usage()
    snapshotter.count("container", Usage(bytes=1, inodes=2, at=3))
    assert await snapshotter.usage("container") == Usage(bytes=1, inodes=2, at=3)
    assert snapshotter.total(SnapshotKind.COMMITTED) == base


async def test_all_is_there_after_a_kill(restart: Restart, tmp_path: Path) -> None:
    before = await restart()
    await two_layers(before)
    with mounted(await before.prepare("container", "top"), tmp_path / "root") as root:
        (root / "written").write_text("here")
    await before.prepare("unfinished", "missing")
    after = await restart()
    assert sorted(after.list(), key=str) == sorted(before.list(), key=str)
    assert await after.usage("top") == await before.usage("top")
    assert await after.prepare("unfinished", "missing") == []
    with mounted(await after.prepare("container", "top"), tmp_path / "root") as root:
        assert (root / "written").read_text() == "here"
    await after.prepare("new", "top")
    assert await after.prepare("new", "top") != await after.prepare("container", "top")
