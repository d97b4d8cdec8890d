"""The default profile is loaded when it is needed: once, again if the kernel lost it, and what prevents it is said.

The parser is a script that does what the kernel's list shows afterwards.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ropewalk.linux import apparmor as kernel
from ropewalk.runtimes import apparmor

NAME = apparmor.NAME


class Node:
    """`profiles`: the kernel's list. `runs`: what the parser was given, each time."""

    def __init__(self, directory: Path) -> None:
        self.profiles = directory / "profiles"
        self.profiles.write_text("mine (enforce)\n")
        self.log = directory / "log"
        self.log.write_text("")
        self.parser = directory / "parser"
        self.behave(f"cat >>{self.log}; echo ==== >>{self.log}; echo '{NAME} (enforce)' >>{self.profiles}")

    def behave(self, script: str) -> None:
        self.parser.write_text(f"#!/bin/sh\n{script}\n")
        self.parser.chmod(0o755)

    @property
    def runs(self) -> list[str]:
        return self.log.read_text().split("====\n")[:-1]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path)
    monkeypatch.setattr(kernel, "PROFILES", str(node.profiles))
    monkeypatch.setattr(apparmor, "PARSER", str(node.parser))
    return node


async def test_without_apparmor_nothing_is_looked_at(node: Node) -> None:
    node.profiles.unlink()
    assert await apparmor.AppArmor(enabled=False).ready("mine", default=True) == apparmor.Loaded()
    assert node.runs == []


async def test_the_default_is_loaded_once(node: Node) -> None:
    owner = apparmor.AppArmor(enabled=True)
    found = await asyncio.gather(*(owner.ready("", default=True) for _ in range(5)))
    assert set(found) == {apparmor.Loaded(default=NAME)}
    assert await owner.ready("", default=True) == apparmor.Loaded(default=NAME)
    (text,) = node.runs
    assert f"profile {NAME} " in text


async def test_that_of_an_earlier_daemon_is_replaced(node: Node) -> None:
    node.profiles.write_text(f"{NAME} (enforce)\n")
    await apparmor.AppArmor(enabled=True).ready("", default=True)
    assert len(node.runs) == 1


async def test_a_lost_one_is_loaded_again(node: Node) -> None:
    owner = apparmor.AppArmor(enabled=True)
    await owner.ready("", default=True)
    node.profiles.write_text("mine (enforce)\n")
    assert (await owner.ready("", default=True)).default == NAME
    assert len(node.runs) == 2


async def test_a_named_one_is_looked_up_at_each_use(node: Node) -> None:
    owner = apparmor.AppArmor(enabled=True)
    assert await owner.ready("later", default=False) == apparmor.Loaded()
    node.profiles.write_text("later (enforce)\n")
    assert await owner.ready("later", default=False) == apparmor.Loaded(profiles=frozenset({"later"}))
    node.profiles.write_text("")
    assert await owner.ready("later", default=False) == apparmor.Loaded()
    assert node.runs == []  # the default is loaded for who needs it


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'syntax error in line 3' >&2; exit 1", "syntax error in line 3"),
        ("echo 'permission denied; attempted to load a profile' >&2", "permission denied"),
        (None, "apt-get install apparmor"),
    ],
)
async def test_what_prevents_it_is_said_once(
    node: Node, caplog: pytest.LogCaptureFixture, script: str | None, said: str
) -> None:
    if script is None:
        node.parser.unlink()
    else:
        node.behave(script)
    owner = apparmor.AppArmor(enabled=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = await owner.ready("mine", default=True)
    assert found.default == ""
    assert found.profiles == {"mine"}
    assert said in found.problem
    assert owner.problem == found.problem
    assert len(caplog.records) == 1
    node.behave(f"echo '{NAME} (enforce)' >>{node.profiles}")  # it was installed, or repaired, meanwhile
    assert await owner.ready("", default=True) == apparmor.Loaded(default=NAME)


async def test_a_list_that_cannot_be_read_confines_nobody_by_name(node: Node) -> None:
    node.profiles.unlink()
    found = await apparmor.AppArmor(enabled=True).ready("mine", default=False)
    assert (found.default, found.profiles) == ("", frozenset())
    assert "cannot read the loaded profiles" in found.problem


def test_the_text() -> None:
    text = apparmor.build(daemon="/usr/bin/ropewalk", abi=True)
    assert text.startswith(f"abi <abi/3.0>,\nprofile {NAME} flags=(attach_disconnected,mediate_deleted) {{\n")
    for rule in (
        "deny mount,",
        "deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,",
        f"signal (send, receive) peer={NAME},",
    ):
        assert f"  {rule}\n" in text
    assert '  signal (receive) peer="/usr/bin/ropewalk",\n' in text
    plain = apparmor.build(daemon="unconfined", abi=False)
    assert plain.startswith("profile ")
    assert plain.count('peer="unconfined"') == 1
    assert "include" not in text
