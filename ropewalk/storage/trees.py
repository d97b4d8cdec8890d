"""Trees of files that others wrote: enter, count, sync. By file descriptor, never by path below the root.

A layer's author, or a running container, chose every name in such a tree and may change it while it is walked.
So each directory is opened from its parent's descriptor with O_NOFOLLOW; nothing outside can be reached.
Plain and synchronous: these run in worker processes through linux/offload.py.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator

from ropewalk.linux import libc
from ropewalk.storage import blobs

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UNTOUCHED = (0o40755, 0, 0)  # mode, uid, gid of a root directory that the unpacker left as it was made
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_BLOCK = 512  # stat(2): unit of st_blocks


class OverBudget(Exception):
    """A tree is larger, or takes longer to count, than the caller allowed."""


class _Tally:
    """What was counted so far; `enter` counts one directory's entries and says which are directories."""

    def __init__(self, *, budget: float, entries: int) -> None:
        self.blocks = 0
        self.inodes = 0
        self._deadline = time.monotonic() + budget if budget else 0.0
        self._entries = entries
        self._linked: set[tuple[int, int]] = set()

    def add(self, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            link = (status.st_dev, status.st_ino)
            if link in self._linked:
                return
            self._linked.add(link)
        self.blocks += status.st_blocks
        self.inodes += 1

    def enter(self, directory: int) -> list[str]:
        below = []
        for entry in _entries(directory):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
            self.add(status)
            if self._entries and self.inodes > self._entries:  # at once: one directory may have a million
                raise OverBudget
            if stat.S_ISDIR(status.st_mode):
                below.append(entry.name)
        if self._deadline and time.monotonic() > self._deadline:
            raise OverBudget
        return below


def _entries(directory: int) -> Iterator[os.DirEntry[str]]:
    """Nothing where no descriptor is left for scandir's own copy."""
    try:
        entries = os.scandir(directory)
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            return
        raise
    with entries:
        yield from entries


def measure(root: str, *, budget: float = 0.0, entries: int = 0) -> tuple[int, int]:
    """(allocated bytes, inodes) of `root` and all below, hard links once; (0, 0) if it is gone.

    Raises OverBudget after `budget` seconds or `entries` inodes (0: no limit). Where a hostile tree is deeper than
    the descriptor limit, the rest is not entered: the result is a lower bound."""
    tally = _Tally(budget=budget, entries=entries)
    open_directories: list[tuple[int, list[str]]] = []  # a directory, and those in it that wait
    try:
        tally.add(os.lstat(root))
        directory = open_child(root, None)
        while directory >= 0:
            open_directories.append((directory, []))
            open_directories[-1][1].extend(tally.enter(directory))
            directory = _next(open_directories)
    except FileNotFoundError:
        return 0, 0
    finally:
        for directory, _ in open_directories:
            os.close(directory)
    return tally.blocks * _BLOCK, tally.inodes


def _next(open_directories: list[tuple[int, list[str]]]) -> int:
    """The next directory to enter, depth first; -1 at the end. Closes those that are done."""
    while open_directories:
        directory, waiting = open_directories[-1]
        while waiting:
            child = open_child(waiting.pop(), directory)
            if child >= 0:
                return child
        open_directories.pop()
        os.close(directory)
    return -1


def open_child(name: str, parent: int | None) -> int:
    """A directory's descriptor, or -1 if it is none (any more), or no descriptor is left."""
    try:
        return os.open(name, DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, *_NO_DESCRIPTOR):
            return -1
        raise


def measure_each(roots: list[str], budget: float) -> list[tuple[int, int, float] | None]:
    """(bytes, inodes, seconds taken) of each root, None for one that takes longer than `budget` seconds."""
    return [_timed(root, budget) for root in roots]


def _timed(root: str, budget: float) -> tuple[int, int, float] | None:
    start = time.monotonic()
    try:
        size, inodes = measure(root, budget=budget)
    except OverBudget:
        return None
    return size, inodes, time.monotonic() - start


def finish(root: str, to_sync: bool, to_count: bool) -> tuple[int, int]:
    """Before a layer becomes visible: its bytes on disk; (bytes, inodes) if they are asked for."""
    if to_sync:
        sync(root)
    return measure(root) if to_count else (0, 0)


def sync(root: str) -> None:
    """syncfs(2): everything written to the file system of `root` is on disk."""
    directory = os.open(root, DIRECTORY)
    try:
        libc.check(libc.libc.syncfs(directory), root)
    except OSError as error:
        raise blobs.explain(error, f"cannot sync {root}") from error
    finally:
        os.close(directory)


def inherit(parent: str, root: str) -> None:
    """A layer that says nothing about "/" has its parent's: mode, owner (overlay shows the topmost layer's)."""
    status = os.lstat(root)
    if (status.st_mode, status.st_uid, status.st_gid) == _UNTOUCHED:
        above = os.lstat(parent)
        os.chown(root, above.st_uid, above.st_gid, follow_symlinks=False)
        os.chmod(root, stat.S_IMODE(above.st_mode))


def is_small(root: str, *, entries: int, size: int) -> bool:
    """Whether a tree can be removed in an instant."""
    try:
        status = os.lstat(root)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_blocks * _BLOCK <= size
        return measure(root, entries=entries)[0] <= size
    except OverBudget:
        return False
