"""Throw-away threads: what a thread unshares or joins (cwd, namespaces) ends with it."""

from __future__ import annotations

import _thread
import errno
from collections.abc import Callable
from typing import Generic, TypeVar

from ropewalk.linux import libc

T = TypeVar("T")


class Thread(Generic[T]):
    """Runs `fn` in a new thread, which first unshares the CLONE_* in `unshare`. It may be left to itself: what it
    raises is then lost, and it does not hold up the exit. OSError EAGAIN if the node has no thread left to give.

    Of `_thread`, because threading.Thread.start waits until the other runs, which costs two switches more."""

    _value: T

    def __init__(self, fn: Callable[[], T], *, unshare: int = 0) -> None:
        self._fn = fn
        self._unshare = unshare
        self._error: BaseException | None = None
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:  # the one thing that pthread_create(3) says here
            raise OSError(errno.EAGAIN, str(error)) from error

    def _run(self) -> None:
        try:
            if self._unshare:
                libc.unshare(self._unshare)
            self._value = self._fn()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.release()

    def join(self) -> T:
        """Wait for its end; fn's result, or what it raised."""
        with self._ended:
            if self._error is not None:
                raise self._error
            return self._value


def apart(fn: Callable[[], T], *, unshare: int = 0) -> T:
    """Run `fn` in a new thread that first unshares the CLONE_* in `unshare`; its result, or what it raised.

    The caller waits (about 0.1 ms besides fn's own time), so fn must be quick. The thread must not outlive fn:
    a pooled one would carry its namespaces into the next task.
    """
    return Thread(fn, unshare=unshare).join()
