from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.storage import trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def allocated(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


def test_everything_is_counted(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_bytes(b"x" * 100_000)
    (root / "a/b/file").write_bytes(b"x" * 5000)
    found = [root, root / "a", root / "a/b", root / "a/file", root / "a/b/file"]
    assert trees.measure(str(root)) == (allocated(*found), 5)


def test_hard_links_count_once(root: Path) -> None:
    (root / "a").write_bytes(b"x" * 100_000)
    os.link(root / "a", root / "b")
    assert trees.measure(str(root)) == (allocated(root, root / "a"), 2)


def test_holes_take_nothing(root: Path) -> None:
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert trees.measure(str(root))[0] < 1 << 20


def test_links_lead_nowhere(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x" * 1_000_000)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(".")
    size, inodes = trees.measure(str(root))
    assert (size < 1_000_000, inodes) == (True, 3)
    (tmp_path / "way").symlink_to(root)
    with pytest.raises(NotADirectoryError):
        os.close(os.open(tmp_path / "way", trees.DIRECTORY))
    assert trees.open_child(str(tmp_path / "way"), None) == -1


def test_what_is_gone_is_nothing(root: Path) -> None:
    assert trees.measure(str(root / "gone")) == (0, 0)


def test_counting_keeps_to_its_budget(root: Path) -> None:
    for number in range(10):
        (root / f"directory{number}").mkdir()
    assert trees.measure(str(root), entries=11)[1] == 11
    with pytest.raises(trees.OverBudget):
        trees.measure(str(root), entries=10)
    with pytest.raises(trees.OverBudget):
        trees.measure(str(root), budget=1e-9)
    over, *_ = trees.measure_each([str(root)], 1e-9)
    assert over is None
    assert not trees.is_small(str(root), entries=10, size=1 << 20)
    assert trees.is_small(str(root), entries=11, size=1 << 20)
    assert not trees.is_small(str(root), entries=11, size=1)


def test_a_directory_of_very_many_files_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop asks whether a tree is small: what a container made must not hold it up."""
    for number in range(100):
        (tmp_path / str(number)).touch()
    whole, seen = trees._entries, []

    def entries(directory: int) -> Iterator[os.DirEntry[str]]:
        for entry in whole(directory):
            seen.append(entry.name)
            yield entry

    monkeypatch.setattr(trees, "_entries", entries)
    assert not trees.is_small(str(tmp_path), entries=10, size=1 << 20)
    assert len(seen) == 10


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    before = os.listdir("/proc/self/fd")
    trees.measure(str(root))
    with pytest.raises(trees.OverBudget):
        trees.measure(str(root), entries=1)
    assert os.listdir("/proc/self/fd") == before


def test_a_tree_deeper_than_the_descriptor_limit_is_a_lower_bound(root: Path) -> None:
    os.chdir(root)
    try:
        for _ in range(200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir("/")
    assert trees.measure(str(root))[1] == 201
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert 50 < trees.measure(str(root))[1] < 201
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_directory_removed_meanwhile_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").mkdir()
    real = trees.open_child

    def removed(name: str, parent: int | None) -> int:
        if name == "a":
            (root / "a").rmdir()
        return real(name, parent)

    monkeypatch.setattr(trees, "open_child", removed)
    assert trees.measure(str(root))[1] == 2


def test_finish_counts_and_syncs_as_asked(root: Path) -> None:
    assert trees.finish(str(root), True, True) == (allocated(root), 1)
    assert trees.finish(str(root), True, False) == (0, 0)


@pytest.mark.parametrize(("mode", "inherited"), [(0o755, 0o511), (0o700, 0o700)])
def test_only_an_untouched_root_directory_inherits(root: Path, tmp_path: Path, mode: int, inherited: int) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o511)
    root.chmod(mode)
    if os.geteuid() != 0:
        inherited = mode  # the directory is not root's
    trees.inherit(str(parent), str(root))
    assert root.stat().st_mode & 0o777 == inherited
