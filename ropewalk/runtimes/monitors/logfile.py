"""The log file that a monitor writes: made safely before it, and changed under it.

The path's directory comes from the kubelet, but containers may have it mounted (log shippers do): a link planted
under the file's name must not make the monitor, which follows links, write elsewhere. So the file is always made
here, with O_NOFOLLOW, before the monitor opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat

from ropewalk.errors import Invalid, Kind, RopewalkError, WrongState
from ropewalk.linux import inotify, process

MODE = 0o640  # contract 5.1
REOPEN_LOGS = "2 0 0\n"  # REOPEN_LOGS_EVENT height width, conmon's src/ctrl.c
REOPEN_SECONDS = 10.0


def prepare(path: str) -> None:
    """Make the file, and its directory, if absent. Invalid if the name is a link or no regular file."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, MODE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _not_regular(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_regular(path)
        os.fchmod(fd, MODE)
    finally:
        os.close(fd)


def _not_regular(path: str) -> Invalid:
    return Invalid(f"log_path {path!r} is not a regular file", hint="a link there would be followed; remove it")


async def reopen(path: str, *, writer: int, started: int, control: str) -> None:
    """Have the monitor, process `writer` that began at `started`, write to a new file at `path`, and return when it
    does. WrongState if it ends before.

    It opens PATH.tmp, which is made here with O_EXCL (so that no link is followed, and a full disk is seen before
    the old file was given up: conmon exits if that open fails), and renames it to PATH. If it writes to the
    very file that PATH is, nothing is to be done: conmon would lose what is there. On error no new file is left.
    """
    if _writes_to(writer, path):
        return
    directory = os.path.dirname(path)
    temporary = path + ".tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    with inotify.Watch(directory, inotify.IN_MOVED_TO) as watch:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE))
        try:
            os.chmod(temporary, MODE)
            tell(control, REOPEN_LOGS)
            await _renamed(watch, path, writer, started)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def _writes_to(pid: int, path: str) -> bool:
    try:
        wanted = os.stat(path, follow_symlinks=False)
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return False
    for fd in descriptors:
        with contextlib.suppress(OSError):
            if os.path.samestat(wanted, os.stat(f"/proc/{pid}/fd/{fd}")):
                return True
    return False


def tell(control: str, command: str) -> None:
    """A line for the monitor's fifo `control`. WrongState if nobody reads it."""
    try:
        fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            raise WrongState("its monitor is gone") from error
        raise
    try:
        os.write(fd, command.encode())
    finally:
        os.close(fd)


async def _renamed(watch: inotify.Watch, path: str, writer: int, started: int) -> None:
    """PATH.tmp is ours, so the writer has renamed it once it is gone."""
    try:
        async with asyncio.timeout(REOPEN_SECONDS):
            await appears(watch, os.path.basename(path), writer, started)
    except TimeoutError:
        raise RopewalkError(
            f"log {path} was not reopened within {REOPEN_SECONDS:g} s",
            hint="conmon stands still while an attached client does not read",
            kind=Kind.TIMEOUT,
        ) from None
    if os.path.lexists(path + ".tmp"):
        raise WrongState("its monitor has ended")


async def appears(watch: inotify.Watch, name: str, maker: int, started: int) -> None:
    """Until something is renamed to `name` in the watched directory, or the process `maker` has ended."""
    pidfd = process.open_pidfd(maker, started)
    if pidfd is None:
        return
    waits = [asyncio.ensure_future(process.wait_pidfd(pidfd)), asyncio.ensure_future(_event(watch, name))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        os.close(pidfd)


async def _event(watch: inotify.Watch, name: str) -> None:
    async for event, _ in watch:
        if event == name:
            return
