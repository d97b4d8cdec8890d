"""Looks at the node for what a request names: host paths and devices.

A stat on a dead network mount can block for ever, so these module-level functions run in linux/offload.py's workers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from ropewalk import errors
from ropewalk.linux import mount as linux_mount
from ropewalk.runtimes.oci import devices
from ropewalk.runtimes.oci.facts import HostDevice, ResolvedMount
from ropewalk.spec.container import Device, Mount, MountPropagation

MAX_DEVICES = 4096
LOCKED = {"ro": os.ST_RDONLY, "nosuid": os.ST_NOSUID, "nodev": os.ST_NODEV, "noexec": os.ST_NOEXEC}
# What belongs to the node's own sessions, or is a file system of its own in the container.
_SKIPPED_TREES = frozenset(("/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts"))


def read_mounts(mounts: Sequence[Mount]) -> list[ResolvedMount]:
    """Each mount with its host path's real path. Invalid if that does not exist (the CRI's rule)."""
    resolved: list[ResolvedMount] = []
    for mount in mounts:
        source, locked = "", list[str]()
        if mount.image is None:
            try:
                source = os.path.realpath(mount.host_path, strict=True)
                locked = read_locked(source)
            except OSError as error:
                raise errors.Invalid(
                    f"the mount at {mount.container_path} has host_path {mount.host_path!r}: {error.strerror}",
                    hint="make the path on the node",
                ) from None
        shared = mount.propagation is not MountPropagation.PRIVATE
        propagation = propagation_of(source, linux_mount.mounts()) if shared else ""
        resolved.append(ResolvedMount(mount, source, propagation, locked))
    return resolved


def read_locked(path: str) -> list[str]:
    """Options of the mount that `path` lies on. In a mount namespace of less privilege they can only be repeated, never
    left out (mount_namespaces(7), "locked")."""
    flags = os.statvfs(path).f_flag
    return [name for name, bit in LOCKED.items() if flags & bit]


def propagation_of(path: str, table: Sequence[linux_mount.MountInfo]) -> str:
    """ "shared", "slave" or "private": of the mount that `path` lies on, the last of the deepest ones."""
    holds = [entry for entry in table if entry.target == "/" or f"{path}/".startswith(f"{entry.target}/")]
    if not holds:
        return ""
    deepest = max(len(entry.target) for entry in holds)
    fields = [entry for entry in holds if len(entry.target) == deepest][-1].propagation
    return "shared" if "shared:" in fields else "slave" if "master:" in fields else "private"


def read_devices(requested: Sequence[Device]) -> list[HostDevice]:
    """The requested devices; of a directory, all below it. Invalid for what is no device."""
    found: list[HostDevice] = []
    for device in requested:
        try:
            real = os.path.realpath(device.host_path, strict=True)
            status = os.stat(real)
        except OSError as error:
            raise errors.Invalid(
                f"device {device.host_path!r}: {error.strerror}", hint="name a device of this node"
            ) from None
        permissions = device.permissions or "rwm"
        if stat.S_ISDIR(status.st_mode):
            for path in _walk(real):
                below = device.container_path.rstrip("/") + path[len(real) :]
                found += _device(path, below, permissions)
            continue
        one = _device(real, device.container_path, permissions)
        if not one:
            raise errors.Invalid(f"device {device.host_path!r} is no device", hint="mount files, do not list them")
        found += one
    return found[:MAX_DEVICES]


def read_node_devices(root: str = "/dev") -> list[HostDevice]:
    """All device nodes of this node that a privileged container gets."""
    return [device for path in _walk(root) for device in _device(path, path, "rwm")][:MAX_DEVICES]


def read_seccomp_profile(path: str, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a profile file. Invalid if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise errors.Invalid(
            f"the seccomp profile {path!r}: {error.strerror}", hint="put the file on this node"
        ) from None


def _walk(root: str) -> Iterator[str]:
    """Paths of everything below `root` that is no directory and no link, in order."""
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if f"{directory}/{name}" not in _SKIPPED_TREES)
        yield from (f"{directory}/{name}" for name in sorted(files))


def _device(path: str, inside: str, permissions: str) -> list[HostDevice]:
    """One device, or none if `path` is something else or went away."""
    try:
        status = os.lstat(path)
    except OSError:
        return []
    type = devices.type_of(status.st_mode)
    if not type:
        return []
    return [
        HostDevice(
            path=inside,
            type=type,
            major=os.major(status.st_rdev),
            minor=os.minor(status.st_rdev),
            mode=stat.S_IMODE(status.st_mode) & 0o777,
            uid=status.st_uid,
            gid=status.st_gid,
            permissions=permissions,
        )
    ]
