"""A file's data, however this kernel and file system can copy it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ropewalk.storage import copies


@pytest.mark.parametrize("lacks", ["nothing", "the call", "the file system"])
def test_data_and_holes_are_copied_by_whatever_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if lacks == "the call":
        monkeypatch.delattr(os, "copy_file_range")
    elif lacks == "the file system":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.write(os.urandom(copies._BUFFER + 4096))
        file.seek(16 << 20)
        file.write(b"after a hole")
        file.truncate(32 << 20)
    with source.open("rb") as old, target.open("wb") as new:
        copies._copy_data(old.fileno(), new.fileno(), 32 << 20)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 8


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "source").write_bytes(b"x")
    source, target = (tmp_path / "source").open("rb"), (tmp_path / "target").open("wb")
    with source, target, pytest.raises(OSError, match="No space"):
        copies._copy_data(source.fileno(), target.fileno(), 1)
