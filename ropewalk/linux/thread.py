"""Throw-away threads: what a thread unshares or joins (cwd, namespaces) ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ropewalk.linux import libc

T = TypeVar("T")


class _Result(Generic[T]):
    """What the thread leaves behind: a value or an exception."""

    value: T
    error: BaseException | None = None


def apart(fn: Callable[[], T], *, unshare: int = 0) -> T:
    """Run `fn` in a new thread that first unshares the CLONE_* in `unshare`; its result, or what it raised.

    The caller waits (about 0.1 ms besides fn's own time), so fn must be quick. The thread must not outlive fn:
    a pooled one would carry its namespaces into the next task.
    """
    result: _Result[T] = _Result()

    def body() -> None:
        try:
            if unshare:
                libc.unshare(unshare)
            result.value = fn()
        except BaseException as error:
            result.error = error

    thread = threading.Thread(target=body, name="apart", daemon=True)
    thread.start()
    thread.join()
    if result.error is not None:
        raise result.error
    return result.value
