"""Paths that others wrote, and files that must be whole or absent."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ropewalk.linux import features, libc

RESOLVE_NO_XDEV = 0x01  # include/uapi/linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MAX_LINKS = 40  # path_resolution(7)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UntrustedPath(str):
    """A path that an image author, a container or a checkpoint wrote. Give it to `open_in`, never to open()."""

    __slots__ = ()


def open_in(root: int | str, path: str, flags: int, mode: int = 0o666) -> int:
    """A descriptor of `path`, resolved as if `root` (a directory or its descriptor) were "/": symbolic links and
    ".." cannot leave it, magic links of /proc are refused (ELOOP). Always close-on-exec. OSError names the path."""
    with _directory(root) as fd:
        if features.have("openat2"):
            return _openat2(fd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        return _walk(fd, path, flags, mode)


@contextlib.contextmanager
def _directory(root: int | str) -> Iterator[int]:
    if isinstance(root, int):
        yield root
        return
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _openat2(fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """openat2(2). EAGAIN: a rename raced with "..", so it could not be decided; try again. A mode without
    O_CREAT is EINVAL there."""
    creates = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode if creates else 0, resolve)
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "NUL in path", path)
    for _ in range(127):
        try:
            return libc.syscall(libc.SYS_OPENAT2, fd, encoded, how, len(how), path=path)
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, "renames kept racing with the path", path)


def _walk(root: int, path: str, flags: int, mode: int) -> int:
    """open_in without openat2(2): one component at a time, links read and followed by hand, never above `root`."""
    todo = path.split("/")[::-1]
    links = 0
    held = [os.dup(root)]  # the directories from root to here
    try:
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(held) > 1:
                    os.close(held.pop())
                continue
            last = not any(part not in ("", ".") for part in todo)
            target = _read_link(held[-1], name)
            if target is not None and not (last and flags & os.O_NOFOLLOW):
                links += 1
                if links > MAX_LINKS or _is_magic(held[-1]):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    while len(held) > 1:
                        os.close(held.pop())
                todo += target.split("/")[::-1]
                continue
            if last:
                trailing = os.O_DIRECTORY if path.endswith("/") else 0
                return os.open(name, flags | trailing | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=held[-1])
            held.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held[-1]))
        return os.open(".", flags | os.O_CLOEXEC, mode, dir_fd=held[-1])
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        for fd in held:
            os.close(fd)


def _read_link(fd: int, name: str) -> str | None:
    """The target of a symbolic link, None for anything else (also for what is absent)."""
    try:
        return os.readlink(name, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _is_magic(fd: int) -> bool:
    """Links in a proc file system may be magic; the walk follows none there."""
    proc_super_magic = 0x9FA0  # include/uapi/linux/magic.h
    buffer = ctypes.create_string_buffer(256)
    libc.check(libc.libc.fstatfs(fd, buffer))
    return bool(struct.unpack_from("=q", buffer)[0] == proc_super_magic)


def write_atomic(path: str, content: bytes, mode: int = 0o644, *, sync: bool = False) -> None:
    """`path` holds either what it held or all of `content`, with exactly `mode`. `sync`: durable on return."""
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(fd, left) :]
            os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def sync_directory(path: str) -> None:
    """Make renames and new names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a file or a directory with all below; absent is fine. Takes its time: call it by linux/offload.py.

    Safe against whoever may still write there: links are not followed, and a mount below is never entered
    (EBUSY names it; nothing of what is mounted is touched). Any depth, with two descriptors at a time.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except (NotADirectoryError, OSError) as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    try:
        _empty(fd, path)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _empty(top: int, path: str) -> None:
    """Remove everything below the directory `top`, depth first: down by name, up by "..", checked by inode."""
    here = os.dup(top)
    way: list[_Level] = []
    try:
        pending = _unlink_files(here)
        while pending or way:
            if pending:
                child = _enter(here, pending[-1])
                way.append(_Level(_identity(here), pending))
                os.close(here)
                here = child
                pending = _unlink_files(here)
                continue
            above = os.open("..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = above
            identity, pending = way.pop()
            if _identity(here) != identity:
                raise OSError(errno.EAGAIN, "moved away while it was removed", pending[-1])
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(pending.pop(), dir_fd=here)
    except OSError as error:
        names = [level.pending[-1] for level in way]
        raise OSError(error.errno, error.strerror, os.path.join(path, *names, error.filename or "")) from error
    finally:
        os.close(here)


class _Level(NamedTuple):
    """A directory that is being emptied: which one, and its subdirectories that are left; we are in the last."""

    identity: tuple[int, int]
    pending: list[str]


def _unlink_files(fd: int) -> list[str]:
    """Unlink what is no directory; the names of the directories."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in found if is_directory]


def _enter(fd: int, name: str) -> int:
    """The directory `name`, unless something is mounted on it."""
    if features.have("openat2"):
        try:
            return _openat2(fd, name, _DIRECTORY, 0, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    elif not _is_mounted(fd, name):
        return os.open(name, _DIRECTORY, dir_fd=fd)
    raise OSError(errno.EBUSY, "something is mounted here", name)


def _is_mounted(fd: int, name: str) -> bool:
    """Mount ids of two descriptors differ (proc_pid_fdinfo(5)): bind mounts of one file system too."""
    child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        return _mount_id(child) != _mount_id(fd)
    finally:
        os.close(child)


def _mount_id(fd: int) -> bytes:
    with open(f"/proc/thread-self/fdinfo/{fd}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id:"))


def _identity(fd: int) -> tuple[int, int]:
    found: os.stat_result = os.fstat(fd)
    return found.st_dev, found.st_ino
