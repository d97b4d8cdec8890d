"""Control groups: one interface over v1 (also hybrid) and v2, and the cgroupfs driver.

Paths are relative to each hierarchy's mount point: "/kubepods/pod1". Calls are quick file operations made inline;
only what has to wait for processes is async. Nothing here owns a cgroup: whoever has the path may repeat anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from ropewalk import errors
from ropewalk.linux import held, mount, pidfd, process, thread
from ropewalk.spec import pod

KILL_SECONDS = 10.0
STORM_ROUNDS = 2  # after so many rounds of SIGKILL somebody forks faster than we kill
MAX_HELD = 256  # pidfds at a time
REMOVE_SECONDS = 2.0
UNLIMITED = 1 << 62  # limits from here on mean "none" (v1 reports 2^63 less a page)


class Pressure(Struct, frozen=True):
    """One line of a pressure file: total in nanoseconds, averages in percent."""

    total_ns: int
    avg10: float
    avg60: float
    avg300: float


class Psi(Struct, frozen=True):
    some: Pressure | None = None
    full: Pressure | None = None


class CgroupStats(Struct, frozen=True):
    """What a cgroup and all below it use. None: unknown on this node. Limits are None where there is none."""

    cpu_usage_ns: int | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None  # usage less inactive file pages
    memory_rss: int | None = None  # anonymous memory
    page_faults: int | None = None
    major_page_faults: int | None = None
    memory_limit: int | None = None
    swap_usage: int | None = None
    swap_limit: int | None = None
    pids: int | None = None  # threads, as the pids controller counts
    cpu_psi: Psi | None = None
    memory_psi: Psi | None = None
    io_psi: Psi | None = None


class Cgroups(ABC):
    """See the module. Errors are OSError with the file, or RopewalkErrors that name the cgroup."""

    version: int
    driver: str = "cgroupfs"  # or "systemd": who makes the cgroups of new pods (cgroup_systemd.py)
    held: held.Held  # of the files that statistics are read from

    @abstractmethod
    def problem(self) -> str:
        """Why containers cannot run under this layout and what to do, "" if they can."""

    @abstractmethod
    def controllers(self) -> frozenset[str]:
        """Names of the controllers that cgroups here can have ("cpu", "memory", ...)."""

    @abstractmethod
    def directories(self, path: str) -> list[str]:
        """The directory of `path` in each hierarchy, whether or not it exists."""

    @abstractmethod
    def make(self, path: str, *, controllers: Iterable[str] | None = None) -> None:
        """Create the cgroup and its ancestors, ready to take processes; idempotent. v1: in every hierarchy, or in
        those that `add` needs for `controllers`."""

    @abstractmethod
    def add(self, path: str, pid: int, *, controllers: Iterable[str] | None = None) -> None:
        """Move a process (all threads) into an existing cgroup. v1: only of the hierarchies of `controllers`, if given
        (each move costs, a monitor needs few), and of those by which systemd knows whose a process is."""

    @abstractmethod
    def own(self) -> str:
        """The directory of this process's own cgroup, in one of the hierarchies."""

    def expect_move(self) -> thread.Thread[None]:
        """Say some milliseconds ahead that a process is going to be moved, by us or by a runtime.

        A move excludes every fork and exit meanwhile, and the kernel makes that cheap for those by having the move wait
        for an RCU grace period, 5 to 15 ms, unless another move was moments ago (cgroup_threadgroup_rwsem in
        kernel/cgroup/cgroup.c, kernel/rcu/sync.c). So this process is moved to where it is, in a thread: the grace
        period passes while the caller prepares. Where that is not allowed, moves are as slow as they were."""
        return thread.Thread(self._move_nowhere)

    def _move_nowhere(self) -> None:
        with contextlib.suppress(OSError, errors.RopewalkError):  # a cgroup namespace may not show where we are
            write(f"{self.own()}/cgroup.procs", "0")  # the writer itself

    @abstractmethod
    def stats(self, path: str) -> CgroupStats | None:
        """None if the cgroup is gone."""

    @abstractmethod
    def oom_kills(self, path: str) -> int | None:
        """Processes that the OOM killer ended here since the cgroup was made. None if it is gone."""

    @abstractmethod
    def update(self, path: str, resources: pod.LinuxContainerResources) -> None:
        """Set what is not zero or empty. Invalid: a value that the kernel refuses, or that this version cannot hold."""

    @abstractmethod
    def _end(self, path: str, round: int, held: Mapping[int, int]) -> None:
        """Send SIGKILL to every process of the cgroup, once. `held` are pidfds by pid."""

    def _signal(self, path: str, held: Mapping[int, int]) -> None:
        """SIGKILL by pidfd, to those that a second look still finds here: a pid that was freed and given to a
        stranger between the first look and pidfd_open is not hit."""
        for pid in self.processes(path):
            if pid in held:
                process.send_signal(held[pid], signal.SIGKILL)

    def _signal_frozen(self, path: str) -> None:
        """SIGKILL to however many there are: a frozen process cannot end, so its pid cannot become a stranger's."""
        for pid in self.processes(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def processes(self, path: str) -> list[int]:
        """Every process of the cgroup and of those below. Empty if it is gone."""
        found: set[int] = set()
        for directory in self.directories(path):
            for below in walk(directory):
                found.update(read_processes(below))
        found.discard(0)  # of another pid namespace
        return sorted(found)

    def exists(self, path: str) -> bool:
        """In any hierarchy."""
        return any(os.path.isdir(directory) for directory in self.directories(path))

    def list(self, prefix: str) -> list[str]:
        """Paths of the cgroups below `prefix` (itself not) in any hierarchy, parents first."""
        found: set[str] = set()
        for directory in self.directories(prefix):
            start = len(directory.rstrip("/"))
            found.update(below[start:] for below in walk(directory))
        base = prefix.rstrip("/")
        return sorted(base + rest for rest in found if rest.strip("/"))

    async def kill(self, path: str, *, seconds: float = KILL_SECONDS) -> None:
        """SIGKILL every process of the cgroup and below until none is left. Kind.TIMEOUT names those that stay."""
        deadline = time.monotonic() + seconds
        round = 0
        while listed := self.processes(path):
            held = hold(listed)
            try:
                self._end(path, round, held)
                await _ended(held.values(), deadline)
            finally:
                for fd in held.values():
                    os.close(fd)
            if time.monotonic() >= deadline and (stay := ", ".join(map(str, self.processes(path)))):
                raise errors.RopewalkError(
                    f"processes {stay} in cgroup {path} outlived SIGKILL for {seconds:g} s",
                    hint="they wait in the kernel (state D in ps): look for a dead file system or device",
                    kind=errors.Kind.TIMEOUT,
                )
            round += 1
            await asyncio.sleep(min(0.001 * (round - 1), 0.05))

    async def remove(self, path: str, *, seconds: float = REMOVE_SECONDS) -> None:
        """Remove the cgroup and those below; absent is fine. What has just ended may still be busy for a moment."""
        if path.strip("/") == "":
            raise errors.Invalid("the root cgroup cannot be removed")
        for directory in self.directories(path):
            self.held.forget(directory)
        deadline = time.monotonic() + seconds
        pause = 0.001
        while True:
            try:
                for directory in self.directories(path):
                    for below in reversed(list(walk(directory))):
                        with contextlib.suppress(FileNotFoundError):
                            os.rmdir(below)
                return
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.05)


def detect(mountinfo: str = "/proc/self/mountinfo") -> Cgroups:
    """The layout of this node. v1 if any v1 hierarchy has a controller, as runc and crun decide; else v2."""
    from ropewalk.linux import cgroup_v1, cgroup_v2

    unified = ""
    hierarchies: dict[str, str] = {}
    for found in mount.mounts(mountinfo):
        if found.type == "cgroup2":
            unified = unified or found.target
        elif found.type == "cgroup":
            for option in found.super_options.split(","):
                if option in cgroup_v1.CONTROLLERS or option.startswith("name="):
                    hierarchies.setdefault(option, found.target)
    if any(name in cgroup_v1.CONTROLLERS for name in hierarchies):
        return cgroup_v1.CgroupsV1(hierarchies, unified)
    if unified:
        return cgroup_v2.CgroupsV2(unified)
    raise errors.Unsupported(
        "no cgroup hierarchy is mounted", hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup, or start systemd"
    )


def own_path(controller: str = "") -> str:
    """Of this process's cgroup, in the v1 hierarchy of `controller`, "" for v2's: cgroups(7), /proc/PID/cgroup."""
    for line in read("/proc/self/cgroup").decode().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    return "/"


def relative(path: str) -> str:
    """`path` without its leading slash, checked: Invalid if it could leave the hierarchy."""
    parts = path.strip("/").split("/")
    if not path.startswith("/") or any(part in (".", "..") or "\0" in part for part in parts):
        raise errors.Invalid(f"cgroup path {path!r} is not absolute, or has dots in it")
    return "/".join(part for part in parts if part)


def walk(directory: str) -> Iterator[str]:
    """A cgroup's directory and all below it, parents first; nothing if it is gone. A directory's link count tells
    whether it has children (kernfs), which saves reading it."""
    try:
        links = os.stat(directory).st_nlink
    except FileNotFoundError:
        return
    yield directory
    if links == 2:
        return
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for path in below:
        yield from walk(path)


def read(path: str) -> bytes:
    """A cgroup file; b"" if it or its cgroup is gone (ENODEV: as it is opened, or since). One read: they are small."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return b""
        raise


def write(path: str, value: str) -> None:
    """Write a cgroup file. OSError names the file: ENOENT (its cgroup may go while it is open), EINVAL, EBUSY, ..."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        number = errno.ENOENT if error.errno == errno.ENODEV else error.errno
        raise OSError(number, os.strerror(number or 0), path) from error


def set_value(directory: str, file: str, value: str | int) -> None:
    """Write a setting that a caller asked for: what the kernel says about the value becomes Invalid, "busy" (a limit
    below the present use) Kind.STATE."""
    path = os.path.join(directory, file)
    try:
        write(path, str(value))
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise errors.NotFound(f"cgroup {directory} is gone") from None
        raise errors.Unsupported(f"{file} cannot be set to {value}: this node has no such file") from None
    except OSError as error:
        busy = error.errno == errno.EBUSY
        raise errors.RopewalkError(
            f"{path} cannot be set to {value}: {error.strerror}",
            hint="it is below what is in use now" if busy else "",
            kind=errors.Kind.STATE if busy else errors.Kind.INVALID,
        ) from error


def read_processes(directory: str) -> list[int]:
    """cgroup.procs, of any length; empty if the cgroup is gone or threaded."""
    try:
        fd = os.open(f"{directory}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b""
            while chunk := os.read(fd, 65536):
                content += chunk
        finally:
            os.close(fd)
        return [int(line) for line in content.split()]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return []
        raise


def number(content: bytes) -> int | None:
    """A file that is one number; None for "max", nothing, or anything else."""
    text = content.strip()
    return int(text) if text.lstrip(b"-").isdigit() else None


def limit(content: bytes) -> int | None:
    """A limit; None where there is none."""
    value = number(content)
    return value if value is not None and 0 <= value < UNLIMITED else None


def field(content: bytes, name: bytes) -> int | None:
    """`name`'s number in a file of "name number" lines."""
    at = content.find(b"\n" + name + b" ")
    start = at + len(name) + 2
    if at < 0:
        if not content.startswith(name + b" "):
            return None
        start = len(name) + 1
    end = content.find(b"\n", start)
    return int(content[start : end if end >= 0 else None])


def is_storm(round: int, held: Mapping[int, int]) -> bool:
    """A fork bomb: between listing and killing there is always a new one, so it must be stopped first."""
    return round >= STORM_ROUNDS or len(held) == MAX_HELD


def hold(pids: Iterable[int]) -> dict[int, int]:
    """A pidfd for each of `pids` that is still there, MAX_HELD at most; the caller closes them."""
    held: dict[int, int] = {}
    try:
        for pid in itertools.islice(pids, MAX_HELD):
            with contextlib.suppress(ProcessLookupError):
                held[pid] = pidfd.open(pid)
    except OSError:
        for fd in held.values():
            os.close(fd)
        raise
    return held


async def _ended(pidfds: Iterable[int], deadline: float) -> None:
    """Until all have ended, or the deadline."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            for fd in pidfds:
                await process.wait_pidfd(fd)
