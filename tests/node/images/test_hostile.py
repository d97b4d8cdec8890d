"""Hostile layers as root: devices, whiteouts, trusted attributes (T1). The same corpus as the unit tests, and more."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.images.jobs import Limits
from ropewalk.images.worker import tar, unpack
from ropewalk.linux import features
from tests.fakes import hostile, oci
from tests.unit.images.worker.test_unpack import fingerprint

LIMITS = Limits(layer_bytes=1 << 30, layer_inodes=10_000, ratio=1000)
CASES = hostile.corpus("/outside")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def run(root: Path, files: list[oci.File]) -> bool:
    """Whether the layer was taken."""
    root.mkdir(parents=True)
    unpacker = unpack.Unpacker(str(root), LIMITS)
    try:
        unpacker.unpack(tar.Pieces([oci.archive(files)]))
    except RopewalkError:
        return False
    finally:
        unpacker.close()
    return True


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
def test_hostile_layers_stay_inside_for_root_too(tmp_path: Path, openat2: bool) -> None:
    for number, (name, case) in enumerate(hostile.corpus(str(tmp_path / "outside")).items()):
        outside = tmp_path / "outside"
        if not outside.exists():
            (outside / "canary.d").mkdir(parents=True)
            (outside / "canary").write_text("alive")
            (outside / "canary.link").symlink_to("canary")
        before, beside = fingerprint(outside), sorted(os.listdir(tmp_path))
        root = tmp_path / f"case{number}" / "root"
        if openat2:
            taken = run(root, case.files)
        else:
            with features.force_off("openat2"):
                taken = run(root, case.files)
        assert fingerprint(outside) == before, name
        assert sorted(os.listdir(tmp_path)) == sorted([*beside, f"case{number}"]), name
        assert os.listdir(root.parent) == ["root"], name
        assert not (taken and case.must_fail), name
        forged = [path for path in root.rglob("*") if is_whiteout(path)]
        assert not forged or ".wh." in repr(case.files), name


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_a_layers_whiteouts_take_overlays_form(tmp_path: Path) -> None:
    root = tmp_path / "root"
    files = [
        oci.File(".wh.file"),
        oci.File("a/.wh..wh..opq"),
        oci.File("a/kept", b"x"),
        oci.File(".wh.was"),
        oci.File("was/now", b"a directory in place of what was hidden"),
        oci.directory("own"),
        oci.File("own/x", b"x"),
        oci.File(".wh.own"),
        oci.File("stays", b"x"),
        oci.File(".wh.stays"),
        oci.File(".wh.back"),
        oci.directory("back", 0o700),
        oci.File("again", b"a file, and what was below is gone"),
        oci.directory("again"),
        oci.File("again/x", b"x"),
    ]
    assert run(root, files)
    assert is_whiteout(root / "file")
    assert (root / "stays").read_bytes() == b"x"
    for name in ("a", "was", "own", "back", "again"):
        assert os.getxattr(root / name, unpack.OVERLAY_OPAQUE) == b"y", name
    assert sorted(os.listdir(root / "own")) == ["x"]
    assert stat.S_IMODE((root / "back").stat().st_mode) == 0o700


def test_setgid_and_default_acls_do_not_act_on_what_is_unpacked(tmp_path: Path) -> None:
    acl = (2).to_bytes(4, "little")  # linux/posix_acl_xattr.h: version, then (tag, permissions, id)
    for tag, permissions in ((1, 7), (4, 7), (32, 7)):
        acl += tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + b"\xff" * 4
    pax = {"SCHILY.xattr.system.posix_acl_default": acl.decode("latin-1")}
    root = tmp_path / "root"
    files = [
        oci.directory("d", 0o2775, gid=50),
        oci.File("d/f", b"x", mode=0o600),
        oci.directory("d/e", 0o700),
        oci.directory("acl", 0o755, pax=pax),
        oci.File("acl/f", b"x", mode=0o600),
    ]
    assert run(root, files)
    assert (root / "d/f").stat().st_gid == 0
    assert stat.S_IMODE((root / "d/e").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "acl/f").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2775
