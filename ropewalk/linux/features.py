"""What this kernel offers, each probed once by really calling it, and why not otherwise.

The floor is Linux 5.14. Whoever uses a feature asks `have` and has another way; tests force it with `force_off`.
docs/kernel-floor.md lists these, what is tried where it is used, and the test of each.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ropewalk.linux import libc, pidfd

FSCONFIG_SET_STRING = 1  # include/uapi/linux/mount.h
OPEN_TREE_CLONE = 1
MOUNT_ATTR_IDMAP = 0x00100000


class Feature(NamedTuple):
    name: str
    available: bool
    reason: str  # what was seen, either way


def _probe_openat2() -> str:
    fd = libc.syscall(libc.SYS_OPENAT2, libc.AT_FDCWD, b"/", struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, 0), 24)
    os.close(fd)
    return "openat2(2) answers"


def _probe_lowerdir_plus() -> str:
    """Linux 6.8. Before 6.5 overlayfs collected any key unread, so one that cannot exist must be refused first."""
    context = libc.syscall(libc.SYS_FSOPEN, b"overlay", 1)
    try:
        try:
            libc.syscall(libc.SYS_FSCONFIG, context, FSCONFIG_SET_STRING, b"ropewalk-none", b"/", 0)
        except OSError:
            libc.syscall(libc.SYS_FSCONFIG, context, FSCONFIG_SET_STRING, b"lowerdir+", b"/", 0)
            return "overlayfs takes lowerdir+"
    finally:
        os.close(context)
    raise OSError(errno.EINVAL, "overlayfs does not check options by fsconfig(2)")


def _probe_idmapped() -> str:
    """MOUNT_ATTR_IDMAP with the initial user namespace: always refused, with EPERM where it is known."""
    tree = libc.syscall(libc.SYS_OPEN_TREE, libc.AT_FDCWD, b"/", OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            request = struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
            libc.syscall(libc.SYS_MOUNT_SETATTR, tree, b"", libc.AT_EMPTY_PATH, request, len(request))
        except PermissionError:
            return "mount_setattr(2) knows MOUNT_ATTR_IDMAP"
        finally:
            os.close(namespace)
    finally:
        os.close(tree)
    return "mount_setattr(2) took MOUNT_ATTR_IDMAP"


def _probe_cgroup_kill() -> str:
    """cgroup.kill came with 5.14, in every cgroup but the root of v2."""
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    if (major, minor) < (5, 14):
        raise OSError(errno.ENOSYS, f"Linux {release} is older than 5.14")
    return f"Linux {release}"


def _probe_pidfd() -> str:
    os.close(pidfd.open(os.getpid()))
    return "pidfd_open(2) answers"


_PROBES: dict[str, Callable[[], str]] = {
    "openat2": _probe_openat2,
    "lowerdir_plus": _probe_lowerdir_plus,
    "idmapped": _probe_idmapped,
    "cgroup_kill": _probe_cgroup_kill,
    "pidfd": _probe_pidfd,
}
_forced_off: set[str] = set()


@functools.cache
def _probed(name: str) -> Feature:
    try:
        return Feature(name, True, _PROBES[name]())
    except OSError as error:
        return Feature(name, False, error.strerror or str(error))


def probe(name: str) -> Feature:
    """One of NAMES; KeyError otherwise."""
    if name in _forced_off:
        return Feature(name, False, "forced off")
    return _probed(name)


def have(name: str) -> bool:
    return probe(name).available


def probe_all() -> list[Feature]:
    return [probe(name) for name in NAMES]


NAMES = tuple(_PROBES)


@contextlib.contextmanager
def force_off(name: str) -> Iterator[None]:
    """For tests: `name` is not there while this lasts."""
    if name not in _PROBES:
        raise KeyError(name)
    already = name in _forced_off
    _forced_off.add(name)
    try:
        yield
    finally:
        if not already:
            _forced_off.discard(name)
