"""AppArmor as the kernel shows it, from files like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.linux import apparmor

LIST = (
    b"lsb_release (enforce)\nnvidia_modprobe//kmod (enforce)\nsome name (complain)\nmine (enforce)\nminer (enforce)\n"
)


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("lsb_release", True),
        ("mine", True),
        ("miner", True),
        ("some name", True),
        ("nvidia_modprobe//kmod", True),
        ("min", False),
        ("ine", False),
        ("name", False),
        ("other", False),
        ("", False),
        ("(enforce)", False),
    ],
)
def test_whole_names_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, loaded: bool) -> None:
    (tmp_path / "profiles").write_bytes(LIST)
    monkeypatch.setattr(apparmor, "PROFILES", str(tmp_path / "profiles"))
    assert apparmor.is_loaded(name) is loaded


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "PROFILES", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError):
        apparmor.is_loaded("mine")


@pytest.mark.parametrize(("content", "enabled"), [("Y\n", True), ("N\n", False), ("", False), (None, False)])
def test_whether_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, *, enabled: bool
) -> None:
    monkeypatch.setattr(apparmor, "ENABLED", str(tmp_path / "enabled"))
    if content is not None:
        (tmp_path / "enabled").write_text(content)
    assert apparmor.is_enabled() is enabled


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"unconfined\n", "unconfined"),
        (b"/usr/bin/ropewalk (enforce)\n", "/usr/bin/ropewalk"),
        (b"a b (complain)", "a b"),
        (b"\0", "unconfined"),
        (b"", "unconfined"),
    ],
)
def test_the_own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, name: str) -> None:
    (tmp_path / "current").write_bytes(content)
    monkeypatch.setattr(apparmor, "CURRENT", (str(tmp_path / "absent"), str(tmp_path / "current")))
    assert apparmor.own_profile() == name
