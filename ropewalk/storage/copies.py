"""Copies of trees, for snapshotters that cannot stack them: copy a tree, apply a layer's differences to one.

The same rules as in trees.py: by descriptor, nothing followed. Hard links, holes, extended attributes (file
capabilities), owners, modes and times are kept; data blocks are shared where the file system can (reflink).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ropewalk.linux import paths
from ropewalk.storage import blobs, trees

_FICLONE = 0x40049409  # include/uapi/linux/fs.h
_OVERLAY = "trusted.overlay."  # Documentation/filesystems/overlayfs.rst: what overlay writes for itself
_OPAQUE = _OVERLAY + "opaque"
_CHUNK = 1 << 30
_NO_COPY = (errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL)  # of copy_file_range(2): cannot, here
_BUFFER = 1 << 20


class _Pair(NamedTuple):
    """One directory on both sides (descriptors), and its subdirectories that wait."""

    source: int
    target: int
    waiting: list[str]


def copy_tree(source: str, target: str) -> None:
    """Copy `source` as the new directory `target`, which appears only when it is whole. Done already is fine."""
    partial = f"{target}.partial"
    try:
        with _alone(os.path.dirname(target)):
            if os.path.isdir(target):
                return
            try:
                paths.remove_tree(partial)
                _copy(source, partial)
                os.rename(f"{partial}/root", target)
            finally:
                paths.remove_tree(partial)
    except OSError as error:
        raise blobs.explain(error, f"cannot copy {source}") from error


def _copy(source: str, partial: str) -> None:
    os.makedirs(f"{partial}/links")
    os.mkdir(f"{partial}/root", 0o700)
    links = os.open(f"{partial}/links", trees.DIRECTORY)
    try:
        _walk(source, f"{partial}/root", lambda s, t: _copy_entries(s, t, links), _copy_attributes)
    finally:
        os.close(links)


def merge_tree(differences: str, target: str) -> None:
    """Apply a layer as overlay keeps it (whiteouts: device 0:0; opaque directories) to a copy of its parent.

    Files are moved, so `differences` is used up. A repeat after a kill goes on where it was; done already is fine."""
    try:
        with _alone(os.path.dirname(target)):
            if os.path.isdir(differences):
                _walk(differences, target, _merge_entries, _copy_attributes)
                paths.remove_tree(differences)
    except OSError as error:
        raise blobs.explain(error, f"cannot apply {differences}") from error


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    """One at a time: a worker of a daemon that was killed goes on with its call, and the next daemon repeats it."""
    lock = os.open(directory, trees.DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _walk(source: str, target: str, visit: Callable[[int, int], list[str]], leave: Callable[[int, int], None]) -> None:
    """Visit pairs of directories, parents first; `visit` returns the subdirectories that both sides have."""
    _allow_depth()
    pairs: list[_Pair] = []
    try:
        _open_pair(pairs, source, target, None)
        pairs[-1].waiting.extend(visit(pairs[-1].source, pairs[-1].target))
        while pairs:
            pair = pairs[-1]
            if pair.waiting:
                name = pair.waiting.pop()
                _open_pair(pairs, name, name, pair)
                pairs[-1].waiting.extend(visit(pairs[-1].source, pairs[-1].target))
            else:
                leave(pair.source, pair.target)
                pairs.pop()
                os.close(pair.source)
                os.close(pair.target)
    finally:
        for pair in pairs:
            os.close(pair.source)
            os.close(pair.target)


def _open_pair(pairs: list[_Pair], source: str, target: str, parent: _Pair | None) -> None:
    below = os.open(source, trees.DIRECTORY, dir_fd=parent.source if parent else None)
    try:
        pairs.append(_Pair(below, os.open(target, trees.DIRECTORY, dir_fd=parent.target if parent else None), []))
    except OSError:
        os.close(below)
        raise


def _copy_entries(source: int, target: int, links: int) -> list[str]:
    below = []
    with os.scandir(source) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(entry.name, 0o700, dir_fd=target)
                below.append(entry.name)
            elif status.st_nlink == 1:
                _copy_entry(entry.name, status, source, target)
            else:
                _copy_linked(entry.name, status, source, target, links)
    return below


def _copy_linked(name: str, status: os.stat_result, source: int, target: int, links: int) -> None:
    """The first of several names is copied, and remembered as `links`/<inode>; the others are links to it."""
    first = str(status.st_ino)
    try:
        os.link(first, name, src_dir_fd=links, dst_dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        _copy_entry(name, status, source, target)
        os.link(name, first, src_dir_fd=target, dst_dir_fd=links, follow_symlinks=False)


def _copy_entry(name: str, status: os.stat_result, source: int, target: int) -> None:
    """Anything but a directory."""
    if stat.S_ISREG(status.st_mode):
        _copy_file(name, status, source, target)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    new = f"/proc/self/fd/{target}/{name}"
    for attribute, value in _attributes(f"/proc/self/fd/{source}/{name}").items():
        os.setxattr(new, attribute, value, follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(name: str, status: os.stat_result, source: int, target: int) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _copy_data(old, new, status.st_size)
            _copy_attributes(old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_data(old: int, new: int, size: int) -> None:
    """Share the blocks, or copy them; holes stay holes, so a sparse file cannot fill the disk."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(new, _FICLONE, old)
        return
    os.ftruncate(new, size)
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(old, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole until the end
                return
            raise
        end = os.lseek(old, offset, os.SEEK_HOLE)
        while offset < end:
            copied = _copy_range(old, new, min(end - offset, _CHUNK), offset)
            if copied == 0:
                return
            offset += copied


def _copy_range(old: int, new: int, size: int, offset: int) -> int:
    """copy_file_range(2), or a read and a write where the file system or the C library has none."""
    try:
        return os.copy_file_range(old, new, size, offset, offset)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_COPY:
            raise
    return os.pwrite(new, os.pread(old, min(size, _BUFFER), offset), offset)


def _copy_attributes(source: int, target: int) -> None:
    """Owner, then mode (chown clears setuid), then extended attributes (chown clears capabilities), then times."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    wanted = _attributes(source)
    for attribute in _attributes(target).keys() - wanted.keys():
        os.removexattr(target, attribute)
    for attribute, value in wanted.items():
        os.setxattr(target, attribute, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _attributes(file: int | str) -> dict[str, bytes]:
    """Extended attributes, without overlay's own. `file`: a descriptor, or a path whose last part is not followed."""
    follow = isinstance(file, int)
    names = os.listxattr(file, follow_symlinks=follow)
    return {name: os.getxattr(file, name, follow_symlinks=follow) for name in names if not name.startswith(_OVERLAY)}


def _merge_entries(source: int, target: int) -> list[str]:
    if _is_opaque(source):
        for name in os.listdir(target):
            paths.remove_tree(f"/proc/self/fd/{target}/{name}")
        os.removexattr(source, _OPAQUE)  # only now: a repeat must not remove what was moved
    below = []
    with os.scandir(source) as entries:
        for entry in list(entries):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                _make_directory(entry.name, target)
                below.append(entry.name)
                continue
            if _is_directory(entry.name, target) or _is_whiteout(status):
                paths.remove_tree(f"/proc/self/fd/{target}/{entry.name}")
            if not _is_whiteout(status):
                os.rename(entry.name, entry.name, src_dir_fd=source, dst_dir_fd=target)
    return below


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_directory(name: str, parent: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False


def _make_directory(name: str, parent: int) -> None:
    if not _is_directory(name, parent):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)


def _allow_depth() -> None:
    """Two descriptors per level of a tree: as many as this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
