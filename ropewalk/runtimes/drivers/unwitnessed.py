"""How a process ended that nobody waited for on our behalf, because its monitor was killed.

Linux 6.15 keeps a reaped process's status for those who held its pidfd: PIDFD_GET_INFO with PIDFD_INFO_EXIT
(include/uapi/linux/pidfd.h). A pidfd polls readable when the process ends, and hangs up when it has been reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import struct

PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), 64 bytes
PIDFD_INFO_EXIT = 1 << 3
REAP_SECONDS = 2.0

_INFO = struct.Struct("=QQ11Ii")  # mask, cgroup id, ids, wait status


async def exit_code(pidfd: int) -> int | None:
    """Of a process that has ended, 128+n for signal n. None if the kernel does not tell, or nobody reaps it."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(REAP_SECONDS):
            while (status := _status(pidfd)) is None:
                await _reaped(pidfd)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code
    return None


def _status(pidfd: int) -> int | None:
    """None until it has been reaped. OSError ENOTTY before Linux 6.13, EINVAL where the structure is unknown."""
    answer = fcntl.ioctl(pidfd, PIDFD_GET_INFO, _INFO.pack(PIDFD_INFO_EXIT, *[0] * 13))
    mask, *_, status = _INFO.unpack(answer)
    return int(status) if mask & PIDFD_INFO_EXIT else None


async def _reaped(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[None] = loop.create_future()
    with select.epoll() as hangup:
        hangup.register(pidfd, 0)  # nothing but EPOLLHUP, which comes unasked
        loop.add_reader(hangup.fileno(), _settle, seen)
        try:
            await seen
        finally:
            loop.remove_reader(hangup.fileno())


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
