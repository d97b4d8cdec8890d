"""Directories that a layer's names imply but no entry described show through as the layers below made them.

overlayfs takes a directory's owner and mode from the topmost layer that has it. A layer that holds `tmp/x` alone
would make /tmp root's, 0755; unpacking onto a mounted parent would not, so neither does unpacking alone.
"""

from __future__ import annotations

import contextlib
import os
import stat

from ropewalk.images import jobs
from ropewalk.images.worker import layer
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
                source = next((fd for root in below if (fd := _walk(found, root, parts)) is not None), None)
                target = _walk(found, here, parts)
                if source is not None and target is not None:
                    _copy(source, target)
    layer.sync(job.directory)
    return jobs.Done()


def _open(stack: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


def _walk(stack: contextlib.ExitStack, root: int, parts: list[bytes]) -> int | None:
    """None: that layer has no such directory."""
    here = root
    for part in parts:
        try:
            here = os.open(part, _DIRECTORY, dir_fd=here)
        except OSError:
            return None
        stack.callback(os.close, here)
    return here


def _copy(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(OVERLAY_OPAQUE.rpartition(".")[0]):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
