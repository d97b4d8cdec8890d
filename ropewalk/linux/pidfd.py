"""pidfds, whatever this Python was built with.

os.pidfd_open, signal.pidfd_send_signal and os.P_PIDFD are there only if the C library's headers were new enough:
glibc 2.36 for the last (RHEL 9 has 2.34), and builds of Python for old distributions have none of them. The calls are
the kernel's since Linux 5.4.
"""

from __future__ import annotations

import errno
import os
import signal

from ropewalk.linux import libc

P_PIDFD = 3  # include/uapi/linux/wait.h


def open(pid: int) -> int:
    """pidfd_open(2), close-on-exec. ProcessLookupError if there is no such process. Where only a process group, a
    session or a thread still has the number, kernels say EINVAL, and since 6.15 of a thread ENOENT."""
    try:
        return os.pidfd_open(pid) if hasattr(os, "pidfd_open") else libc.syscall(libc.SYS_PIDFD_OPEN, pid, 0)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT) and pid > 0:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
        raise


def send_signal(fd: int, signum: int) -> None:
    """pidfd_send_signal(2). ProcessLookupError if the process is gone."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(fd, signum)
        return
    libc.syscall(libc.SYS_PIDFD_SEND_SIGNAL, fd, signum, None, 0)


def reap(fd: int) -> os.waitid_result | None:
    """waitid(2) of a child, without waiting: None while it runs. ChildProcessError if it is none."""
    return os.waitid(P_PIDFD, fd, os.WEXITED | os.WNOHANG)
