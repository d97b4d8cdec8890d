"""pidfds with what Python offers, and by number where it offers nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading

import pytest

from ropewalk.linux import pidfd, process


@pytest.fixture(autouse=True, params=["of Python", "by number"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by number":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.delattr(os, "P_PIDFD", raising=False)
        monkeypatch.delattr(signal, "pidfd_send_signal", raising=False)


def test_a_number_that_only_a_process_group_has() -> None:
    """Its leader was reaped, a member lives on."""
    script = ["sh", "-c", "sleep 600 & echo $!"]
    leader = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    try:
        leader.wait()
        with pytest.raises(ProcessLookupError):
            pidfd.open(leader.pid)
    finally:
        os.kill(member, signal.SIGKILL)
        leader.stdout.close()


def test_a_number_that_only_a_thread_has() -> None:
    """A container's number may become that of a stranger's thread: the container is gone all the same."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(ProcessLookupError):
            pidfd.open(thread.native_id)
        assert process.open_pidfd(thread.native_id, process.start_time(os.getpid()) or 0) is None
    finally:
        done.set()
        thread.join()


def test_a_child_is_signalled_and_reaped() -> None:
    child = subprocess.Popen(["sleep", "600"])
    fd = pidfd.open(child.pid)
    try:
        assert not os.get_inheritable(fd)
        assert pidfd.reap(fd) is None
        pidfd.send_signal(fd, signal.SIGTERM)
        assert select.select([fd], [], [], 10)[0] == [fd]
        ended = pidfd.reap(fd)
        assert ended is not None
        assert (ended.si_pid, ended.si_status) == (child.pid, signal.SIGTERM)
        with pytest.raises(ProcessLookupError):
            pidfd.send_signal(fd, signal.SIGTERM)
        with pytest.raises(ChildProcessError):
            pidfd.reap(fd)
    finally:
        os.close(fd)
        child.returncode = -signal.SIGTERM


def test_what_is_gone_has_none() -> None:
    with pytest.raises(ProcessLookupError):
        pidfd.open(2**22 + 1)
