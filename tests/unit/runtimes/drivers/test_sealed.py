"""A program in a sealed memory file: it runs, nobody can write to it, and it follows the program on disk."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.runtimes.drivers import command, sealed


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return Path(shutil.copy2("/bin/true", tmp_path / "runtime"))


@pytest.fixture
def chosen(tmp_path: Path) -> Iterator[sealed.Sealed]:
    made = sealed.Sealed(str(tmp_path / "programs" / "runtime"))
    yield made
    made.close()


def test_the_copy_runs_under_its_own_name(chosen: sealed.Sealed, program: Path) -> None:
    path = chosen.ensure(str(program))
    assert path == chosen.link
    assert os.path.basename(path) == "runtime"
    assert subprocess.run([path], check=False).returncode == 0


def test_it_has_all_seals_and_cannot_be_written(chosen: sealed.Sealed, program: Path) -> None:
    path = chosen.ensure(str(program))
    fd = os.open(path, os.O_RDWR)
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & sealed.SEALS == sealed.SEALS
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_it_is_copied_once(chosen: sealed.Sealed, program: Path) -> None:
    chosen.ensure(str(program))
    before = os.readlink(chosen.link)
    chosen.ensure(str(program))
    assert os.readlink(chosen.link) == before


def test_a_replaced_program_is_copied_again(chosen: sealed.Sealed, program: Path) -> None:
    chosen.ensure(str(program))
    shutil.copy("/bin/false", program.with_name("new"))
    program.with_name("new").replace(program)
    assert subprocess.run([chosen.ensure(str(program))], check=False).returncode == 1


def test_what_is_no_binary_is_run_as_it_is(chosen: sealed.Sealed, program: Path) -> None:
    program.write_text("#!/bin/sh\n")
    assert chosen.ensure(str(program)) == str(program)
    assert chosen.ensure("/nonexistent") == "/nonexistent"


async def test_a_command_is_sealed_once_it_was_seen_to_run(tmp_path: Path, program: Path) -> None:
    runs = command.Command(str(program), str(tmp_path))
    assert runs.path == str(program)
    await runs.seal(str(tmp_path / "programs" / "runtime"))
    assert runs.path == str(tmp_path / "programs" / "runtime")
    assert runs.sealed is not None
    runs.sealed.close()


async def test_a_command_that_does_not_run_sealed_stays_as_it_is(tmp_path: Path, program: Path) -> None:
    shutil.copy("/bin/false", program)
    fails = command.Command(str(program), str(tmp_path))
    await fails.seal(str(tmp_path / "programs" / "runtime"))
    assert fails.path == str(program)


def test_a_kernel_without_mfd_exec(monkeypatch: pytest.MonkeyPatch, chosen: sealed.Sealed, program: Path) -> None:
    create = os.memfd_create

    def old(name: str, flags: int) -> int:
        if flags & sealed.MFD_EXEC:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    assert subprocess.run([chosen.ensure(str(program))], check=False).returncode == 0
    assert os.path.islink(chosen.link)
