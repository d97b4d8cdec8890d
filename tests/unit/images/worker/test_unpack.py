"""What entries become on disk, and what hostile ones cannot do. What needs root is in tests/node."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.images.jobs import Limits
from ropewalk.images.worker import tar, unpack
from ropewalk.images.worker.tar import BadArchive
from tests.fakes import hostile, oci
from tests.fakes.oci import File, directory, hard_link, symlink

LIMITS = Limits(layer_bytes=1 << 30, layer_inodes=10_000, ratio=1000)


def run(root: Path, files: Iterable[File], limits: Limits = LIMITS) -> unpack.Unpacker:
    root.mkdir(exist_ok=True)
    mine = [file._replace(uid=os.geteuid(), gid=os.getegid()) for file in files]
    unpacker = unpack.Unpacker(str(root), limits)
    try:
        unpacker.unpack(tar.Pieces([oci.archive(mine)]))
    finally:
        unpacker.close()
    return unpacker


@pytest.fixture(autouse=True)
def umask() -> Iterable[None]:
    """As in the worker."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_have_content_mode_and_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(
        root,
        [
            directory("./", 0o751),
            directory("d", 0o1777, mtime=1_500_000_000.5),
            File("d/f", b"x" * 100_000, mode=0o640, mtime=1_600_000_000),
            File("d/empty", mode=0o444),
            symlink("d/l", "f", mtime=1_400_000_000),
            File("suid", mode=0o4755),
        ],
    )
    assert (root / "d/f").read_bytes() == b"x" * 100_000
    assert [mode(root / n) for n in (".", "d", "d/f", "d/empty", "suid")] == [0o751, 0o1777, 0o640, 0o444, 0o4755]
    assert (root / "d").stat().st_mtime == 1_500_000_000.5
    assert (root / "d/f").stat().st_mtime == 1_600_000_000
    assert (root / "d/l").lstat().st_mtime == 1_400_000_000
    assert os.readlink(root / "d/l") == "f"


def test_a_read_only_directory_still_gets_its_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(root, [directory("d", 0o555), File("d/f"), directory("d/e", 0o500), File("d/e/f", b"x")])
    assert [mode(root / n) for n in ("d", "d/e")] == [0o555, 0o500]
    os.chmod(root / "d", 0o755)


def test_hard_links_share_an_inode(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpacker = run(root, [File("a/f", b"x"), hard_link("b/g", "a/f"), symlink("s", "nowhere"), hard_link("t", "s")])
    assert (root / "a/f").stat().st_ino == (root / "b/g").stat().st_ino
    assert os.readlink(root / "t") == "nowhere"
    assert unpacker.inodes == 5  # root, a, a/f, b, s


def test_names_are_taken_below_the_root_however_they_begin(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(root, [File("./a"), File("/b"), File("//c/./d"), File("e/", type=tarfile.AREGTYPE)])
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) == ["a", "b", "c", "c/d", "e"]
    assert (root / "e").is_dir()


def test_directories_without_an_entry_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpacker = run(root, [File("a/b/c"), directory("d"), File("d/e/f"), directory("a"), File("g/h")])
    assert sorted(unpacker.implied) == [b"a/b", b"d/e", b"g"]
    assert mode(root / "a/b") == 0o755


def test_the_last_of_several_entries_with_one_name_stays(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(
        root,
        [
            File("f", b"1"),
            File("f", b"2"),
            directory("d"),
            File("d/x", b"1"),
            File("d", b"now a file"),
            directory("keep"),
            File("keep/x", b"kept"),
            directory("keep", 0o700),
        ],
    )
    assert (root / "f").read_bytes() == b"2"
    assert (root / "d").read_bytes() == b"now a file"
    assert (root / "keep/x").read_bytes() == b"kept"
    assert mode(root / "keep") == 0o700


def test_a_link_of_the_layer_is_followed_inside_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(root, [directory("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr"), File("lib/a"), File("abs/b")])
    assert (root / "usr/lib/a").exists()
    assert (root / "usr/b").exists()


def test_a_hard_links_target_must_be_in_the_layer(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="absent"):
        run(tmp_path / "root", [hard_link("h", "not/here")])


def test_user_attributes_are_kept_and_others_are_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    wanted = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.security.selinux": "x"}
    run(root, [File("f", pax=wanted), directory("d", pax=wanted)])
    for name in ("f", "d"):
        assert [key for key in os.listxattr(root / name) if key.startswith("user.")] == ["user.a"]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("security.capability", True),
        ("user.x", True),
        ("trusted.x", True),
        ("system.posix_acl_access", True),
        ("system.posix_acl_default", True),
        ("trusted.overlay.opaque", False),
        ("trusted.overlay.", False),
        ("user.overlay.whiteout", False),
        ("security.selinux", False),
        ("security.ima", False),
        ("system.nfs4_acl", False),
        ("user.\0x", False),
    ],
)
def test_which_attributes_are_applied(key: str, wanted: bool) -> None:
    assert unpack.is_wanted(key) is wanted


def test_sizes_and_counts_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(unpack.TooLarge, match="1000 bytes"):
        run(tmp_path / "a", [File("f", b"x" * 1024)], Limits(layer_bytes=1000, layer_inodes=10, ratio=1))
    few = Limits(layer_bytes=1 << 20, layer_inodes=10, ratio=1)
    with pytest.raises(unpack.TooLarge):
        run(tmp_path / "b", [File(f"f{n}") for n in range(10)], few)
    with pytest.raises(unpack.TooLarge):
        run(tmp_path / "c", [File("f") for _ in range(11)], few)
    with pytest.raises(unpack.TooLarge):
        run(tmp_path / "d", [File("a/b/c/d/e/f/g/h/i/j/k")], few)


def test_what_a_layer_makes_the_worker_remember_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_IMPLIED", 100)
    monkeypatch.setattr(unpack, "MAX_KEPT", 1000)
    run(tmp_path / "a", [File("a/b/c/d"), directory("e", pax={"SCHILY.xattr.user.a": "1"})])
    with pytest.raises(unpack.TooLarge, match="leaves out"):
        run(tmp_path / "b", [File(f"{n}/x") for n in range(60)])
    with pytest.raises(unpack.TooLarge, match="attributes"):
        run(tmp_path / "c", [directory(f"d{n}", pax={"SCHILY.xattr.user.a": "1"}) for n in range(10)])
    unwanted = {"SCHILY.xattr.security.selinux": "x" * 2000}
    run(tmp_path / "d", [directory("d", pax=unwanted), File("f", pax={"SCHILY.xattr.user.a": "x" * 2000})])


def test_notes_are_few(tmp_path: Path) -> None:
    unpacker = run(tmp_path / "a", [File(f"f{n}", type=tarfile.CHRTYPE, device=(0, 0)) for n in range(100)])
    assert len(unpacker.notes) == unpack.MAX_NOTES


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    run(tmp_path / "a", [File("a/b/c"), directory("a/b", 0o700), symlink("l", "a"), File("l/x")])
    with pytest.raises(BadArchive):
        run(tmp_path / "b", [File("a/b/c"), File("../x")])
    assert os.listdir("/proc/self/fd") == before


# -- hostile layers


def fingerprint(directory: Path) -> str:
    """Everything about a tree that an escape could change."""
    digest = hashlib.sha256()
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        known = (path, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns, content)
        attributes = sorted(os.listxattr(path, follow_symlinks=False))
        digest.update(repr((known, attributes)).encode())
    return digest.hexdigest()


CASES = hostile.corpus("/outside")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    where = tmp_path / "outside"
    (where / "canary.d").mkdir(parents=True)
    (where / "canary").write_text("alive")
    (where / "canary.link").symlink_to("canary")
    return where


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.needs_root])
def test_hostile_layers_stay_inside(name: str, tmp_path: Path, outside: Path) -> None:
    case = hostile.corpus(str(outside))[name]
    root = tmp_path / "parent" / "root"
    root.parent.mkdir()
    (root.parent / "x").write_text("canary")
    before, beside = fingerprint(outside), os.listdir(tmp_path)
    failed = False
    try:
        run(root, case.files)
    except RopewalkError:
        failed = True
    assert fingerprint(outside) == before
    assert os.listdir(tmp_path) == beside
    assert (root.parent / "x").read_text() == "canary"
    assert sorted(os.listdir(root.parent)) == ["root", "x"]
    assert failed or not case.must_fail
