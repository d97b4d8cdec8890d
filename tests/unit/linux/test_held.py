"""Held files: read anew each time, gone when they are gone, bounded by the descriptors there are."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from ropewalk.linux.held import Held


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_opened_once_and_read_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "memory.current"
    file.write_text("1\n")
    held, before = Held(), descriptors()
    assert held.read(str(file)) == b"1\n"
    file.write_text("22\n")
    assert held.read(str(file)) == b"22\n"
    assert descriptors() == before + 1
    held.forget(str(tmp_path))
    assert descriptors() == before


def test_what_is_absent_is_empty_and_holds_nothing(tmp_path: Path) -> None:
    before = descriptors()
    assert Held().read(str(tmp_path / "none")) == b""
    assert descriptors() == before


def test_forget_takes_what_is_below_a_directory_and_no_neighbour(tmp_path: Path) -> None:
    held, before = Held(), descriptors()
    for name in ("pod", "pod2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        held.read(str(tmp_path / name / "file"))
    held.forget(str(tmp_path / "pod"))
    assert descriptors() == before + 1
    held.forget(str(tmp_path / "pod2"))


def test_no_more_than_its_share_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    held, before = Held(), descriptors()
    for number in range(5):
        (tmp_path / str(number)).write_text(str(number))
        assert held.read(str(tmp_path / str(number))) == str(number).encode()
    assert descriptors() == before + 2
    held.forget(str(tmp_path))
