"""Applying layers to copies, where it is interrupted and where the trees are hostile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.storage import copies

OPAQUE = "trusted.overlay.opaque"


def listing(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else "" for path in root.rglob("*")
    }  # fmt: skip


def make_parent(root: Path) -> Path:
    for name in ("opaque/old", "kept/old"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("parent")
    (root / "hidden").write_text("parent")
    return root


def make_layer(root: Path) -> Path:
    for name in ("opaque/new1", "opaque/new2", "kept/new", "added/deep/new"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("layer")
    os.setxattr(root / "opaque", OPAQUE, b"y")
    os.mknod(root / "hidden", stat.S_IFCHR, 0)
    return root


WANTED = {
    "added": "", "added/deep": "", "added/deep/new": "layer",
    "kept": "", "kept/new": "layer", "kept/old": "parent",
    "opaque": "", "opaque/new1": "layer", "opaque/new2": "layer",
}  # fmt: skip


@pytest.mark.parametrize("done", range(4))
def test_a_merge_goes_on_where_it_was_interrupted(tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, layer = make_parent(tmp_path / "parent"), make_layer(tmp_path / "layer")
    rename, calls = os.rename, 0

    def interrupted(old: str, new: str, **directories: int) -> None:
        nonlocal calls
        calls += 1
        if calls > done:
            raise OSError(4, "interrupted")
        rename(old, new, src_dir_fd=directories["src_dir_fd"], dst_dir_fd=directories["dst_dir_fd"])

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(RopewalkError, match="cannot apply"):
            copies.merge_tree(str(layer), str(parent))
    copies.merge_tree(str(layer), str(parent))
    assert listing(parent) == WANTED
    assert not layer.exists()
    assert OPAQUE not in os.listxattr(parent / "opaque")


def test_a_layer_cannot_reach_through_a_link_of_its_parent(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("canary")
    parent, layer = tmp_path / "parent", tmp_path / "layer"
    parent.mkdir()
    for name in ("directory", "whiteout", "opaque", "file"):
        (parent / name).symlink_to(canary)
    for name in ("directory", "opaque"):
        (layer / name).mkdir(parents=True)
        (layer / name / "file").write_text("layer")
    os.setxattr(layer / "opaque", OPAQUE, b"y")
    os.mknod(layer / "whiteout", stat.S_IFCHR, 0)
    (layer / "file").write_text("layer")
    copies.merge_tree(str(layer), str(parent))
    assert listing(canary) == {"file": "canary"}
    assert listing(parent) == {
        "directory": "", "directory/file": "layer", "opaque": "", "opaque/file": "layer", "file": "layer",
    }  # fmt: skip


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(old: int, new: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    source = make_parent(tmp_path / "source")
    with monkeypatch.context() as patch:
        patch.setattr(copies, "_copy_data", full)
        with pytest.raises(RopewalkError, match="free space"):
            copies.copy_tree(str(source), str(tmp_path / "copy"))
    assert os.listdir(tmp_path) == ["source"]
    (tmp_path / "copy.partial").mkdir()  # a kill left it
    copies.copy_tree(str(source), str(tmp_path / "copy"))
    assert listing(tmp_path / "copy") == listing(source)
    assert sorted(os.listdir(tmp_path)) == ["copy", "source"]


def test_a_copy_is_of_the_links_not_of_what_they_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to("/etc")
    (source / "hard").symlink_to("/etc/passwd")
    os.link(source / "hard", source / "harder", follow_symlinks=False)
    copies.copy_tree(str(source), str(tmp_path / "copy"))
    assert os.readlink(tmp_path / "copy/link") == "/etc"
    assert os.readlink(tmp_path / "copy/harder") == "/etc/passwd"
    assert os.lstat(tmp_path / "copy/hard").st_nlink == 2
