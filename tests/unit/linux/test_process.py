from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import uuid
from typing import Any

import pytest

from ropewalk.linux import process, spawn


def test_a_command_with_parentheses_and_spaces_does_not_shift_the_fields() -> None:
    rest = "S 1 7 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 0"
    found = process.Stat(f"42 (a) b) (c) {rest}\n".encode())
    assert (found.state, found.parent, found.session, found.start) == ("S", 1, 9, 4711)


def test_this_process_is_itself() -> None:
    start = process.start_time(os.getpid())
    assert start is not None
    assert process.is_alive(os.getpid(), start)
    assert not process.is_alive(os.getpid(), start + 1)
    assert process.session(os.getpid()) == os.getsid(0)


def test_what_is_gone_is_none() -> None:
    gone = 2**22 + 1  # above the highest pid_max
    assert process.start_time(gone) is None
    assert process.session(gone) is None
    assert process.open_pidfd(gone, 1) is None
    assert process.children(gone) == []
    assert process.command_line(gone) == []


def test_a_pid_with_another_start_time_is_not_opened() -> None:
    start = process.start_time(os.getpid())
    assert start is not None
    assert process.open_pidfd(os.getpid(), start - 1) is None
    fd = process.open_pidfd(os.getpid(), start)
    assert fd is not None
    os.close(fd)


def test_a_process_that_cannot_be_looked_at_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the last one: who tries again must not take one more each time."""

    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process, "start_time", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Too many open files"):
        process.open_pidfd(os.getpid(), 1)
    assert os.listdir("/proc/self/fd") == before


async def test_a_process_is_found_by_an_exact_argument_waited_for_and_signalled() -> None:
    mark = f"ropewalk-{uuid.uuid4()}"
    gate_read, gate_write = os.pipe()
    child = spawn.spawn(["sh", "-c", "read forever", mark], stdin=gate_read)
    try:
        while mark.encode() not in process.command_line(child.pid):  # exec lets go of the parent, then fills this in
            await asyncio.sleep(0)
        assert process.find(mark.encode()) == [child.pid]
        assert process.find(mark[:-1].encode()) == []
        assert child.pid in process.children(os.getpid())
        assert process.session(child.pid) == child.pid
        start = process.start_time(child.pid)
        assert start is not None
        fd = process.open_pidfd(child.pid, start)
        assert fd is not None
        waits = [asyncio.ensure_future(process.wait_pidfd(fd)) for _ in range(3)]
        waits[0].cancel()
        await asyncio.sleep(0)
        assert process.send_signal(fd, signal.SIGKILL)
        await asyncio.gather(*waits[1:])
        assert await child.wait() == -signal.SIGKILL
        assert not process.send_signal(fd, signal.SIGKILL)
        os.close(fd)
    finally:
        child.kill()
        os.close(gate_read)
        os.close(gate_write)
    assert process.find(mark.encode()) == []


def test_the_boot_id_is_stable() -> None:
    assert process.boot_id() == process.boot_id()
    assert len(process.boot_id()) == 36


async def test_children_on_a_kernel_that_does_not_list_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CONFIG_PROC_CHILDREN."""
    files, exists = open, os.path.exists

    def absent(path: Any, *options: Any, **named: Any) -> Any:
        if str(path).endswith("/children"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return files(path, *options, **named)

    monkeypatch.setattr("builtins.open", absent)
    monkeypatch.setattr(os.path, "exists", lambda path: not path.endswith("/children") and exists(path))
    child = spawn.spawn(["sleep", "600"])
    assert child.pid in process.children(os.getpid())
    child.kill()
    await child.wait()


def test_the_environment_is_that_of_the_exec() -> None:
    with subprocess.Popen(["sleep", "60"], env={"A": "1", "B": "x=y"}) as child:
        try:
            while not (found := process.environment(child.pid)):  # as of the command line
                pass
            assert found == {b"A=1", b"B=x=y"}
        finally:
            child.kill()
    assert process.environment(child.pid) == frozenset()


async def test_children_while_threads_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends between the look at the threads and the look at its children hides nobody else's."""
    listdir = os.listdir
    gone = str(2**22 + 1)  # above the highest pid_max
    monkeypatch.setattr(os, "listdir", lambda path: [gone, *listdir(path)])
    child = spawn.spawn(["sleep", "600"])
    assert child.pid in process.children(os.getpid())
    child.kill()
    await child.wait()
