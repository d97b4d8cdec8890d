"""The policy's contexts from files like a distribution's, and what is relabelled (in a user's attribute namespace)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import Invalid
from ropewalk.linux import selinux

LXC = """\
# comment
process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file="system_u:object_r:container_ro_file_t:s0"
sandbox_kvm_process = "system_u:system_r:svirt_qemu_net_t:s0"
"""
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def policy(directory: Path, name: str, lxc: str | None, config: str | None) -> str:
    contexts = directory / name / "contexts"
    contexts.mkdir(parents=True)
    if lxc is not None:
        (contexts / "lxc_contexts").write_text(lxc)
    if config is not None:
        (directory / "config").write_text(config)
    return str(directory)


def test_contexts_of_the_policy_in_use(tmp_path: Path) -> None:
    found = selinux.Contexts("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")
    one = policy(tmp_path / "one", "mls", LXC, "# SELINUXTYPE=no\nSELINUX=enforcing\nSELINUXTYPE=mls # which\n")
    assert selinux.read_contexts(one) == found
    assert selinux.read_contexts(policy(tmp_path / "two", "targeted", LXC, None)) == found


@pytest.mark.parametrize("lxc", [None, "", 'process = "x:y:z"\n', 'process = "container_t"\nfile = "a:b:c:s0"\n'])
def test_a_policy_without_containers(tmp_path: Path, lxc: str | None) -> None:
    assert selinux.read_contexts(policy(tmp_path, "targeted", lxc, "SELINUXTYPE=targeted\n")) is None
    assert selinux.read_contexts(str(tmp_path / "absent")) is None


def test_whether_it_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "MOUNT", str(tmp_path))
    assert not selinux.is_enabled()
    (tmp_path / "enforce").write_text("1")
    assert selinux.is_enabled()


@pytest.fixture
def attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in that needs neither root nor SELinux; users' attributes are for files and directories only."""
    monkeypatch.setattr(selinux, "ATTRIBUTE", "user.selinux")
    try:
        os.setxattr(tmp_path, "user.probe", b"1")
    except OSError:
        pytest.skip("the temporary directory's file system has no attributes for users")
    return "user.selinux"


def test_a_tree_is_relabelled_whole_and_nothing_outside(tmp_path: Path, attribute: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    for path in (tree / "file", tree / "a" / "b" / "deep"):
        path.write_text("")
    selinux.relabel(str(tree), LABEL)
    inside = [tree, *tree.rglob("*")]
    assert len(inside) == 5
    assert all(os.getxattr(path, attribute) == LABEL.encode() + b"\0" for path in inside)
    assert [path for path in (tmp_path, outside, outside / "secret") if attribute in os.listxattr(path)] == []
    selinux.relabel(str(tree / "file"), "another:label:of:s0")
    assert os.getxattr(tree / "file", attribute) == b"another:label:of:s0\0"


def test_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls themselves, since a user's attribute cannot be put on a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").symlink_to(outside / "secret")
    (tree / "directory").symlink_to(outside)
    made: list[tuple[str, bool]] = []

    def record(path: str, name: str, value: bytes, *, follow_symlinks: bool = True) -> None:
        made.append((f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}", follow_symlinks))

    monkeypatch.setattr(os, "setxattr", record)
    selinux.relabel(str(tree), LABEL)
    assert sorted(made) == [(str(tree), False), (f"{tree}/directory", False), (f"{tree}/file", False)]


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/var/lib", "//home", "/tmp/."])
def test_the_nodes_own_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux, "set_label", pytest.fail)
    with pytest.raises(Invalid, match="selinux_relabel"):
        selinux.relabel(path, LABEL)


def test_a_file_system_without_labels_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")

    def refuse(number: int) -> None:
        def setxattr(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "setxattr", setxattr)

    refuse(95)  # ENOTSUP
    selinux.relabel(str(tmp_path), LABEL)
    refuse(22)
    with pytest.raises(OSError, match="Invalid argument"):
        selinux.relabel(str(tmp_path), LABEL)
