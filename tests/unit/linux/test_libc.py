from __future__ import annotations

import errno
import os

import pytest

from ropewalk.linux import libc, thread


def test_a_failed_call_raises_with_errno_and_path() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        libc.check(libc.libc.rmdir(b"/nowhere"), "/nowhere")
    assert caught.value.filename == "/nowhere"


def test_an_unknown_system_call_says_so() -> None:
    with pytest.raises(OSError) as caught:
        libc.syscall(100_000)
    assert caught.value.errno == errno.ENOSYS


def test_a_throw_away_thread_returns_its_result_and_raises_its_errors() -> None:
    assert thread.apart(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        thread.apart(lambda: 1 // 0)


def test_a_directory_changed_in_a_thread_of_its_own_stays_there() -> None:
    before = os.getcwd()

    def elsewhere() -> str:
        os.chdir("/")
        return os.getcwd()

    assert thread.apart(elsewhere, unshare=libc.CLONE_FS) == "/"
    assert os.getcwd() == before
