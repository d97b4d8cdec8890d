"""Directories that a layer's names imply but no entry described show through as the layers below made them.

overlayfs takes a directory's owner and mode from the topmost layer that has it. A layer that holds `tmp/x` alone
would make /tmp root's, 0755; unpacking onto a mounted parent would not, so neither does unpacking alone.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import stat

from ropewalk.images import jobs
from ropewalk.images.worker import layer
from ropewalk.images.worker.accounts import is_opaque
from ropewalk.images.worker.unpack import OVERLAY_OPAQUE

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def inherit(job: jobs.Inherit) -> jobs.Done:
    """Copy owner, mode, times and xattrs of each implied directory from the topmost layer below that has it."""
    with contextlib.ExitStack() as stack:
        here = _open(stack, job.directory)
        below = [_open(stack, directory) for directory in job.below]
        for path in sorted(job.implied, reverse=True):  # children first: their changes touch a parent's times
            with contextlib.ExitStack() as found:
                parts = path.split(b"/")
                source, target = _topmost(found, below, parts), _walk(found, here, parts)
                if source is not None and isinstance(target, int):
                    _copy(source, target)
    layer.sync(job.directory)
    return jobs.Done()


def _open(stack: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


class _Missing(enum.Enum):
    SILENT = "this layer says nothing of it"
    HIDDEN = "this layer hides what the layers below have there"


def _topmost(stack: contextlib.ExitStack, below: list[int], parts: list[bytes]) -> int | None:
    """What overlayfs would show of the layers below, if it is a directory."""
    for root in below:
        found = _walk(stack, root, parts)
        if found is not _Missing.SILENT:
            return found if isinstance(found, int) else None
    return None


def _walk(stack: contextlib.ExitStack, root: int, parts: list[bytes]) -> int | _Missing:
    """The directory's descriptor, which `stack` closes. No other stays open."""
    with contextlib.ExitStack() as way:
        here = root
        for part in parts:
            hides = is_opaque(here)
            try:
                here = os.open(part, _DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                return _Missing.HIDDEN if hides else _Missing.SILENT
            except OSError as error:  # a whiteout, a file, a link
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                return _Missing.HIDDEN
            way.callback(os.close, here)
        found = os.dup(here)
        stack.callback(os.close, found)
        return found


def _copy(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(OVERLAY_OPAQUE.rpartition(".")[0]):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
