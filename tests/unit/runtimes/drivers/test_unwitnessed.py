"""The end of a process that nobody waited for: what the kernel tells, and kernels that do not."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from typing import Any

import pytest

from ropewalk.linux import pidfd
from ropewalk.runtimes.drivers import unwitnessed


async def told(script: str) -> int | None:
    child = subprocess.Popen(["sh", "-c", script])
    fd = pidfd.open(child.pid)
    try:
        child.wait()
        return await unwitnessed.exit_code(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143)])
async def test_a_kernel_that_tells(monkeypatch: pytest.MonkeyPatch, script: str, code: int) -> None:
    """As Linux 6.15 answers; where the kernel is one, its own answer."""
    if await told("exit 0") is None:
        status = {7: 7 << 8, 143: 15}[code]
        answer = unwitnessed._INFO.pack(unwitnessed.PIDFD_INFO_EXIT, *[0] * 12, status)
        monkeypatch.setattr(fcntl, "ioctl", lambda *_: answer)
    assert await told(script) == code


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL])
async def test_a_kernel_that_does_not(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert await told("exit 7") is None
