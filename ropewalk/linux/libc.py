"""ctypes plumbing: the C library, system calls by number, errno turned into OSError."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

AT_FDCWD = -100  # include/uapi/linux/fcntl.h
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# include/uapi/asm-generic/unistd.h. Calls younger than 2019 have one number on every architecture.
SYS_PIDFD_SEND_SIGNAL = 424
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_PIDFD_OPEN = 434
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442

CLONE_FS = 0x00000200  # include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def check(result: int, path: str = "") -> int:
    """`result` of a call that answers -1 on failure; raises OSError with errno and `path`."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path or None)
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None, path: str = "") -> int:
    """syscall(2). Integers are passed as longs, bytes and buffers as pointers, None as NULL."""
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return check(int(libc.syscall(ctypes.c_long(number), *passed)), path)


def unshare(flags: int) -> None:
    """unshare(2), for the calling thread only."""
    check(libc.unshare(flags))


def setns(fd: int, flags: int, path: str = "") -> None:
    """setns(2), for the calling thread only."""
    check(libc.setns(fd, flags), path)
