from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.linux import features, paths


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways: the system call, and the walk of kernels and sandboxes without it."""
    off = features.force_off("openat2") if request.param == "walk" else contextlib.nullcontext()
    with off:
        yield request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system that tries to lead outside: to the `secret` beside it."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (root / "secret").write_text("decoy")
    links = {
        "absolute": "/etc/passwd",
        "relative": "etc/passwd",
        "out": "../secret",
        "far": "../../../../../../etc/passwd",
        "dir": "/etc",
        "etc/up": "../../../secret",
        "loop": "loop",
        "chain": "dir/../absolute",
        "dangling": "/nowhere",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


def content(root: int | str, path: str) -> str:
    fd = paths.open_in(root, paths.UntrustedPath(path), os.O_RDONLY)
    with open(fd) as file:
        return file.read()


@pytest.mark.parametrize("path", ["etc/passwd", "/etc/passwd", "absolute", "relative", "far", "dir/passwd", "chain"])
def test_paths_end_inside(way: str, root: Path, path: str) -> None:
    assert content(str(root), path) == "inside"


@pytest.mark.parametrize("path", ["../secret", "out", "etc/up", "/../../secret", "etc/../../secret"])
def test_paths_that_lead_out_end_at_the_root(way: str, root: Path, path: str) -> None:
    assert content(str(root), path) == "decoy"


@pytest.mark.parametrize(
    ("path", "flags", "error"),
    [
        ("loop", os.O_RDONLY, errno.ELOOP),
        ("dangling", os.O_RDONLY, errno.ENOENT),
        ("missing/x", os.O_RDONLY, errno.ENOENT),
        ("etc/passwd/x", os.O_RDONLY, errno.ENOTDIR),
        ("etc/passwd/", os.O_RDONLY, errno.ENOTDIR),
        ("absolute", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("etc/passwd", os.O_WRONLY | os.O_CREAT | os.O_EXCL, errno.EEXIST),
    ],
)
def test_errors_name_the_path(way: str, root: Path, path: str, flags: int, error: int) -> None:
    with pytest.raises(OSError) as caught:
        paths.open_in(str(root), path, flags)
    assert (caught.value.errno, caught.value.filename) == (error, path)


def test_a_descriptor_is_a_root_too_and_files_can_be_created(way: str, root: Path) -> None:
    fd = os.open(root, os.O_PATH)
    try:
        os.close(paths.open_in(fd, "dir/new", os.O_WRONLY | os.O_CREAT, 0o640))
        assert content(fd, "etc/passwd") == "inside"
        here = paths.open_in(fd, "/", os.O_RDONLY | os.O_DIRECTORY)
        assert os.path.samestat(os.fstat(here), os.fstat(fd))
        assert not os.get_inheritable(here)
        os.close(here)
    finally:
        os.close(fd)
    assert (root / "etc/new").stat().st_mode & 0o777 == 0o640


def test_magic_links_are_refused(way: str) -> None:
    with pytest.raises(OSError) as caught:
        paths.open_in("/proc", "self/fd/0", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_write_atomic_replaces_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    paths.write_atomic(str(target), b"one", 0o600)
    paths.write_atomic(str(target), b"two" * 100_000, 0o644, sync=True)
    assert target.read_bytes() == b"two" * 100_000
    assert target.stat().st_mode & 0o777 == 0o644
    (tmp_path / "directory/x").mkdir(parents=True)
    with pytest.raises(OSError):
        paths.write_atomic(str(tmp_path / "directory"), b"x")
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


def test_remove_tree_removes_everything_and_follows_nothing(way: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    tree = tmp_path / "tree"
    for name in ("a/b/c", "a/d", "e"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text("x")
        (tree / name / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    paths.remove_tree(str(tree))
    paths.remove_tree(str(tree))
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["keep"]


def test_remove_tree_of_a_file_or_a_link_removes_only_that(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    paths.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["file"]
    paths.remove_tree(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == []


def test_remove_tree_of_any_depth_and_width(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    for number in range(1500):
        (top / str(number)).mkdir()
    paths.remove_tree(str(top))
    assert not top.exists()
