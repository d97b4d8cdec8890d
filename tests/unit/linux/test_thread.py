from __future__ import annotations

import _thread
import errno
from typing import Any, NoReturn

import pytest

from ropewalk.linux import thread


def test_what_it_gives_and_what_it_raises() -> None:
    assert thread.apart(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        thread.apart(lambda: 1 // 0)


def test_a_node_without_threads_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fork that has no process left: whoever tries again after an OSError must meet no other."""

    def none_left(*_: Any) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)
    with pytest.raises(OSError, match="can't start new thread") as caught:
        thread.Thread(lambda: None)
    assert caught.value.errno == errno.EAGAIN
