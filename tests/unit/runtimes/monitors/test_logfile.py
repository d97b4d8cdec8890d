"""A log file is made safely, and changed under its writer."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from ropewalk.errors import Invalid, Kind, RopewalkError, WrongState
from ropewalk.linux import process
from ropewalk.runtimes.monitors import logfile


def test_it_is_made_with_its_directory_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "pod" / "0.log"
    logfile.prepare(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.write_text("line\n")
    logfile.prepare(str(path))
    assert path.read_text() == "line\n"


def test_links_fifos_and_directories_are_refused(tmp_path: Path) -> None:
    os.symlink("/dev/null", tmp_path / "link")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("link", "fifo", "directory"):
        with pytest.raises(Invalid, match=name):
            logfile.prepare(str(tmp_path / name))


class Conmon:
    """What conmon does with its control fifo: truncates PATH.tmp, renames it to PATH, writes there."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "0.log"
        self.control = directory / "ctl"
        os.mkfifo(self.control)
        self.reader = os.open(self.control, os.O_RDWR | os.O_NONBLOCK)
        self.log = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def obey(self) -> None:
        assert os.read(self.reader, 200) == b"2 0 0\n"
        os.close(self.log)
        self.log = os.open(f"{self.path}.tmp", os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
        os.rename(f"{self.path}.tmp", self.path)

    async def reopen(self, writer: int = 0) -> None:
        """`writer`: a process that takes no commands, instead of this one."""
        pid = writer or os.getpid()
        started = process.start_time(pid) or 0
        await logfile.reopen(str(self.path), writer=pid, started=started, control=str(self.control))

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.log)


async def test_it_returns_when_the_new_file_is_there(tmp_path: Path) -> None:
    conmon = Conmon(tmp_path)
    asyncio.get_running_loop().add_reader(conmon.reader, conmon.obey)
    os.rename(conmon.path, tmp_path / "0.log.1")
    await conmon.reopen()
    assert os.path.samestat(os.fstat(conmon.log), os.stat(conmon.path))
    assert stat.S_IMODE(conmon.path.stat().st_mode) == 0o640
    assert not (tmp_path / "0.log.tmp").exists()
    os.write(conmon.log, b"kept\n")
    await conmon.reopen()  # it is that file already
    assert conmon.path.read_text() == "kept\n"
    asyncio.get_running_loop().remove_reader(conmon.reader)
    conmon.close()


async def test_a_planted_temporary_link_is_not_followed(tmp_path: Path) -> None:
    conmon = Conmon(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    os.symlink(victim, f"{conmon.path}.tmp")
    os.unlink(conmon.path)
    asyncio.get_running_loop().add_reader(conmon.reader, conmon.obey)
    await conmon.reopen()
    assert victim.read_text() == "untouched"
    asyncio.get_running_loop().remove_reader(conmon.reader)
    conmon.close()


async def test_without_an_answer_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conmon = Conmon(tmp_path)
    os.unlink(conmon.path)
    monkeypatch.setattr(logfile, "REOPEN_SECONDS", 0.01)
    with pytest.raises(RopewalkError) as caught:
        await conmon.reopen()
    assert caught.value.kind is Kind.TIMEOUT
    conmon.close()
    with pytest.raises(WrongState):
        await conmon.reopen()
    assert sorted(os.listdir(tmp_path)) == ["ctl"]


async def test_a_writer_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    """It has read the command, or never will."""
    conmon = Conmon(tmp_path)
    os.unlink(conmon.path)
    ending = await asyncio.create_subprocess_exec("sleep", "100")
    asyncio.get_running_loop().add_reader(conmon.reader, ending.kill)
    with pytest.raises(WrongState, match="ended"):
        await conmon.reopen(ending.pid)
    asyncio.get_running_loop().remove_reader(conmon.reader)
    await ending.wait()
    assert sorted(os.listdir(tmp_path)) == ["ctl"]
    conmon.close()
