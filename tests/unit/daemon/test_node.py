"""Names of an instance, and facts of a node."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from ropewalk.daemon import node
from ropewalk.errors import Invalid
from ropewalk.linux import selinux


class Cgroups:
    version = 1

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def controllers(self) -> frozenset[str]:
        return frozenset({"memory"})

    def directories(self, path: str) -> list[str]:
        return [f"{self.directory}{path}"]


def test_facts_are_of_this_node(tmp_path: Path) -> None:
    facts = node.read_facts(cast(Any, Cgroups(tmp_path)), (1024, 4096))
    assert facts.cgroup_version == 1
    assert facts.kernel >= (5, 0)
    assert (facts.hugepage_sizes, facts.swap, facts.open_files) == (frozenset(), False, (1024, 4096))
    (tmp_path / "memory.memsw.limit_in_bytes").touch()
    assert node.read_facts(cast(Any, Cgroups(tmp_path)), (1, 1)).swap


def test_labels_are_given_where_they_are_asked_for_and_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    contexts = selinux.Contexts("a:b:c:s0", "d:e:f:s0")
    read = partial(node.read_facts, cast(Any, Cgroups(tmp_path)), (1, 1))
    monkeypatch.setattr(selinux, "read_contexts", lambda: contexts)
    for on, label, expected, said in (
        (False, False, None, ""),
        (True, False, None, "SELinux is on, and containers are not labelled"),
        (False, True, None, "SELinux is not on: no container is labelled"),
        (True, True, contexts, ""),
    ):
        caplog.clear()
        monkeypatch.setattr(selinux, "is_enabled", lambda on=on: on)
        assert read(label=label).selinux == expected
        assert [record.message for record in caplog.records] == [said] * bool(said)
    monkeypatch.setattr(selinux, "read_contexts", lambda: None)
    with pytest.raises(Invalid, match="no contexts for containers"):
        read(label=True)


@pytest.mark.parametrize(("kibibytes", "name"), [(2048, "2MB"), (1048576, "1GB"), (64, "64KB"), (32768, "32MB")])
def test_pages_have_the_controllers_names(kibibytes: int, name: str) -> None:
    assert node.page_size(kibibytes) == name


def test_two_roots_never_share_a_name(tmp_path: Path) -> None:
    default = str(tmp_path / "default")
    assert node.instance(default, default) == ("ropewalk", "0000")
    one, other = (node.instance(str(tmp_path / name), default) for name in ("one", "other"))
    assert one != other
    assert one[0] == f"ropewalk-{one[1]}"
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert node.instance(str(tmp_path / "link"), default) == one
