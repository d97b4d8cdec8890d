"""Mounts on the real kernel, in a directory of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.linux import features, mount, paths


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A private directory; nothing may stay mounted below it."""
    for name in ("target", "upper", "work"):
        (tmp_path / name).mkdir()
    yield tmp_path
    left = [found.target for found in mount.mounts() if found.target.startswith(str(tmp_path))]
    for target in reversed(left):
        mount.umount_all(target)
    assert left == []


@pytest.fixture(params=["lowerdir+", "mount"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to name layers: fsconfig, and mount(2) for kernels before 6.8."""
    if request.param == "lowerdir+":
        if not features.have("lowerdir_plus"):
            pytest.skip(features.probe("lowerdir_plus").reason)
        yield request.param
        return
    with features.force_off("lowerdir_plus"):
        yield request.param


def layers(place: Path, count: int, name: str = "{}") -> list[str]:
    """Topmost first: `top` holds the number of the layer that wins, f<n> exists in layer n alone."""
    made = []
    for number in range(count):
        layer = place / "layers" / name.format(number) / "fs"
        layer.mkdir(parents=True)
        (layer / f"f{number}").touch()
        (layer / "top").write_text(str(number))
        made.append(str(layer))
    return made


@pytest.mark.parametrize(
    ("count", "name"),
    [(1, "{}"), (2, "{}"), (100, "{}"), (100, "{:064x}"), (2, "a:b,c\\d {}"), (2, "{:0200d}/" + "x" * 100)],
    ids=["one", "two", "hundred", "hundred-digests", "odd-names", "long-names"],
)
def test_an_overlay_of_any_number_of_layers(place: Path, way: str, count: int, name: str) -> None:
    target = place / "target"
    stack = layers(place, count, name)
    mount.overlay(str(target), layers=stack, upper=str(place / "upper"), work=str(place / "work"))
    try:
        assert sorted(os.listdir(target)) == sorted(["top", *(f"f{number}" for number in range(count))])
        assert (target / "top").read_text() == "0"
        (target / "new").write_text("x")
        assert (place / "upper/new").read_text() == "x"
        assert mount.is_mount(str(target))
        assert mount.filesystem_magic(str(target)) == mount.OVERLAYFS_MAGIC
    finally:
        mount.umount(str(target))


@pytest.mark.parametrize("count", [1, 2])
def test_without_an_upper_directory_it_is_read_only(place: Path, way: str, count: int) -> None:
    target = str(place / "target")
    mount.overlay(target, layers=layers(place, count))
    try:
        with pytest.raises(OSError, match="Read-only"):
            (place / "target/new").touch()
    finally:
        mount.umount(target)


def test_options_become_flags_or_reach_overlayfs(place: Path, way: str) -> None:
    target = str(place / "target")
    options = ["nosuid", "nodev", "rw", "index=off", "volatile"]
    mount.overlay(
        target, layers=layers(place, 2), upper=str(place / "upper"), work=str(place / "work"), options=options
    )
    found = next(each for each in mount.mounts() if each.target == target)
    mount.umount(target)
    assert {"nosuid", "nodev", "rw"} <= set(found.options.split(","))
    assert "volatile" in found.super_options  # "fsync=volatile" since Linux 6.18


def test_errors_name_what_is_wrong(place: Path) -> None:
    target = str(place / "target")
    upper, work = str(place / "upper"), str(place / "work")
    with pytest.raises(FileNotFoundError) as caught:
        mount.overlay(target, layers=["/nowhere", "/etc"], upper=upper, work=work)
    assert caught.value.filename == target
    if features.have("lowerdir_plus"):
        assert "/nowhere" in str(caught.value)
        with pytest.raises(OSError, match="Unknown parameter 'colour'"):
            mount.overlay(target, layers=["/etc", "/usr"], upper=upper, work=work, options=["colour=red"])


def test_a_read_only_bind_keeps_the_source_attributes(place: Path) -> None:
    source, target = str(place / "upper"), str(place / "target")
    mount.tmpfs(source, size=1 << 16, mode=0o1777, options=["noexec"])
    (place / "upper/below").mkdir()
    mount.tmpfs(f"{source}/below")
    try:
        mount.bind(source, target, read_only=True, recursive=True)
        for path in (target, f"{target}/below"):
            with pytest.raises(OSError, match="Read-only"):
                Path(path, "new").touch()
        (place / "upper/new").touch()
        found = next(each for each in mount.mounts() if each.target == target)
        assert {"ro", "noexec"} <= set(found.options.split(","))
        assert os.stat(source).st_mode & 0o7777 == 0o1777
    finally:
        mount.umount_all(target)
        mount.umount_all(source)


def test_a_file_can_be_bound_and_is_a_mount_point(place: Path) -> None:
    (place / "source").write_text("x")
    (place / "file").touch()
    mount.bind(str(place / "source"), str(place / "file"))
    assert mount.is_mount(str(place / "file"))
    assert (place / "file").read_text() == "x"
    mount.umount(str(place / "file"))
    assert not mount.is_mount(str(place / "file"))


def test_umount_all_removes_stacks_and_tolerates_what_is_not_there(place: Path) -> None:
    target = str(place / "target")
    for _ in range(3):
        mount.tmpfs(target)
    with open(f"{target}/busy", "w"):
        mount.umount_all(target)
        assert not mount.is_mount(target)
    mount.umount_all(target)
    mount.umount_all(str(place / "nowhere"))


def test_propagation(place: Path) -> None:
    target = str(place / "target")

    def seen() -> str:
        return next(each for each in mount.mounts() if each.target == target).propagation.split(":")[0]

    mount.tmpfs(target)
    try:
        mount.make_shared(target)
        assert seen() == "shared"
        mount.set_propagation(target, "rprivate")
        assert seen() == ""
        mount.make_shared(target)
        mount.make_slave(target)
        mount.make_private(target)
        assert seen() == ""
    finally:
        mount.umount(target)


@pytest.mark.parametrize("off", [False, True])
def test_remove_tree_never_enters_a_mount(place: Path, off: bool) -> None:
    precious, tree = place / "upper", place / "target"
    (precious / "keep").write_text("x")
    (tree / "a/mounted").mkdir(parents=True)
    mount.bind(str(precious), str(tree / "a/mounted"))  # of the same file system: no device number tells
    try:
        with features.force_off("openat2") if off else contextlib.nullcontext(), pytest.raises(OSError) as caught:
            paths.remove_tree(str(tree))
        assert caught.value.filename == str(tree / "a/mounted")
        assert (precious / "keep").read_text() == "x"
    finally:
        mount.umount(str(tree / "a/mounted"))
    paths.remove_tree(str(tree))
    assert not tree.exists()
