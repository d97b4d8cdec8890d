"""What our children leave behind is reaped here, not by PID 1.

A failed `crun exec` leaves a zombie in the container's PID namespace, and such a namespace ends only when its zombies
are gone: under a PID 1 that reaps late, or (in a container) never, so would a container's stop. As subreaper we get
them instead (prctl(2), PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from ropewalk.linux import libc, process, spawn

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PAUSE = 0.02  # seconds from a SIGCHLD to a look, so that one look serves a burst


class Orphans:
    """Belongs to the event loop that is running when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._look: asyncio.TimerHandle | None = None
        libc.check(libc.libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        self._loop.add_signal_handler(signal.SIGCHLD, self._noticed)

    def close(self) -> None:
        """Be no subreaper any more. What is ours already stays so."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        if self._look is not None:
            self._look.cancel()
        libc.check(libc.libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0))
        self._reap()

    def _noticed(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(PAUSE, self._reap)

    def _reap(self) -> None:
        """Our own children are reaped by their pidfd (spawn.py), with their exit code."""
        self._look = None
        if not _any_ended():
            return
        for pid in process.children(os.getpid()):
            if pid not in spawn.started:
                with contextlib.suppress(ChildProcessError):
                    if (result := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)) is not None:
                        spawn.reaped(result)


def _any_ended() -> bool:
    """Whether any child waits to be reaped: one call says, mostly, that a list of them all is not needed."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
