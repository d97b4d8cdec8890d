"""Processes seen from outside: identity (pid and start time), pidfds, /proc."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from ropewalk.linux import pidfd


class Stat:
    """/proc/PID/stat, the fields in use (proc_pid_stat(5))."""

    __slots__ = ("parent", "session", "start", "state")

    def __init__(self, text: bytes) -> None:
        fields = text[text.rindex(b")") + 2 :].split()  # the command before it may hold anything
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start = int(fields[19])


def stat(pid: int) -> Stat | None:
    """None if there is no such process."""
    content = _read(f"/proc/{pid}/stat")
    return Stat(content) if content else None


def start_time(pid: int) -> int | None:
    """Clock ticks since boot (field 22): with the pid it names a process for ever. None if it is gone."""
    found = stat(pid)
    return found.start if found else None


def is_alive(pid: int, start: int) -> bool:
    """Whether the process that started at `start` still runs; a zombie does not."""
    found = stat(pid)
    return found is not None and found.start == start and found.state not in "ZX"


def session(pid: int) -> int | None:
    found = stat(pid)
    return found.session if found else None


def children(pid: int) -> list[int]:
    """Direct children, of all threads. Without CONFIG_PROC_CHILDREN every process is asked for its parent."""
    found: list[int] = []
    missing = False
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return found
    for tid in threads:
        try:
            with open(f"/proc/{pid}/task/{tid}/children", "rb") as file:
                found += map(int, file.read().split())
        except ProcessLookupError:
            pass
        except FileNotFoundError:  # this thread has ended, or the kernel has no such file
            missing = True
    if missing and not os.path.exists("/proc/self/task/" + str(os.getpid()) + "/children"):
        return [other for other in pids() if (seen := stat(other)) and seen.parent == pid]
    return found


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, parents first."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def find(*arguments: bytes) -> list[int]:
    """Processes one of whose arguments is exactly one of `arguments`."""
    wanted = set(arguments)
    return [pid for pid in pids() if not wanted.isdisjoint(command_line(pid))]


def command_line(pid: int) -> list[bytes]:
    """argv; empty for kernel threads, zombies, what is gone, and for an instant after exec."""
    content = _read(f"/proc/{pid}/cmdline")
    return content.removesuffix(b"\0").split(b"\0") if content else []


def environment(pid: int) -> frozenset[bytes]:
    """KEY=value, as it was at exec; empty for kernel threads, what is gone, and what is not ours to look into."""
    try:
        content = _read(f"/proc/{pid}/environ")
    except PermissionError:
        return frozenset()
    return frozenset(content.split(b"\0")) - {b""}


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        content = b""
        while chunk := os.read(fd, 65536):
            content += chunk
        return content
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)


def boot_id() -> str:
    """Another one after each boot (random(4)): pids and start times of another boot mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def open_pidfd(pid: int, start: int) -> int | None:
    """A descriptor of exactly that process (pidfd_open(2)); None if it is gone or the pid is another's now."""
    try:
        fd = pidfd.open(pid)
    except (ProcessLookupError, ValueError):
        return None
    try:
        same = start_time(pid) == start
    except BaseException:  # it took the last descriptor, say
        os.close(fd)
        raise
    if not same:
        os.close(fd)
        return None
    return fd


async def wait_pidfd(fd: int) -> None:
    """Until the process has ended (a zombie has). Several may wait on one descriptor; it stays the caller's."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    own = os.dup(fd)  # a loop keeps one reader per descriptor
    try:
        loop.add_reader(own, _resolve, ended)
        await ended
    finally:
        loop.remove_reader(own)
        os.close(own)


def _resolve(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def send_signal(fd: int, signum: int) -> bool:
    """pidfd_send_signal(2). False if the process is gone."""
    try:
        pidfd.send_signal(fd, signum)
    except ProcessLookupError:
        return False
    return True


def send(pid: int, start: int, signum: int) -> None:
    """A signal to exactly that process; nothing if it is gone."""
    fd = open_pidfd(pid, start)
    if fd is not None:
        try:
            send_signal(fd, signum)
        finally:
            os.close(fd)


async def ended(pid: int, start: int) -> None:
    """Until that process has ended."""
    fd = open_pidfd(pid, start)
    if fd is not None:
        try:
            await wait_pidfd(fd)
        finally:
            os.close(fd)


async def end(pid: int, start: int, *, grace: float = 0.0) -> None:
    """Wait `grace` seconds for a process to end by itself, then kill it and wait."""
    fd = open_pidfd(pid, start)
    if fd is None:
        return
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await wait_pidfd(fd)
                return
        send_signal(fd, signal.SIGKILL)
        await wait_pidfd(fd)
    finally:
        os.close(fd)


def program_name(pid: int) -> bytes:
    argv = command_line(pid)
    return os.path.basename(argv[0]) if argv else b""
