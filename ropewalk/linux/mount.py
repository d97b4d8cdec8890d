"""Mounts: mount(2), umount2(2), and the file-descriptor based calls where they say more."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ropewalk.linux import features, libc, thread

MS_RDONLY = 1  # include/uapi/linux/mount.h
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2  # include/linux/fs.h
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1  # include/uapi/linux/mount.h
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x00100000

OVERLAYFS_MAGIC = 0x794C7630  # include/uapi/linux/magic.h
TMPFS_MAGIC = 0x01021994
CGROUP2_MAGIC = 0x63677270
NSFS_MAGIC = 0x6E736673

PAGE = 4096  # mount(2) copies one page of data, NUL included
FSCONFIG_STRING = 255  # fsconfig(2): SET_STRING copies at most 255 bytes and a NUL

_FLAGS = {
    "ro": (MS_RDONLY, MOUNT_ATTR_RDONLY),
    "nosuid": (MS_NOSUID, MOUNT_ATTR_NOSUID),
    "nodev": (MS_NODEV, MOUNT_ATTR_NODEV),
    "noexec": (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    "rw": (0, 0),
}


class MountInfo(NamedTuple):
    """One line of /proc/PID/mountinfo (proc_pid_mountinfo(5)); paths are unescaped."""

    id: int
    parent: int
    device: str  # "major:minor"
    root: str
    target: str
    options: str
    propagation: str  # "shared:1 master:2", "" for private
    type: str
    source: str
    super_options: str


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Errors name the target."""
    encoded = os.fsencode(data)
    if len(encoded) >= PAGE:
        raise OSError(errno.E2BIG, f"mount data of {len(encoded)} bytes exceeds {PAGE - 1}", target)
    libc.check(
        libc.libc.mount(
            os.fsencode(source) or None,
            os.fsencode(target),
            os.fsencode(fstype) or None,
            ctypes.c_ulong(flags),
            encoded or None,
        ),
        target,
    )


def umount(path: str, flags: int = 0) -> None:
    """umount2(2). EINVAL means "not a mount point"."""
    libc.check(libc.libc.umount2(os.fsencode(path), flags), path)


def umount_all(path: str) -> None:
    """Detach whatever is mounted on `path`, stacked mounts too. Not mounted, or absent: nothing to do.

    Lazy (MNT_DETACH): a busy mount leaves the tree at once and ends with its last user."""
    while True:
        try:
            umount(path, MNT_DETACH | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return
            raise


def bind(source: str, target: str, *, read_only: bool = False, recursive: bool = False) -> None:
    """Show `source` at `target`. A read-only bind is never visible as writable: its attribute is set before it
    is attached, and the other attributes of the source (nosuid, ...) stay."""
    if not read_only:
        mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
        return
    depth = libc.AT_RECURSIVE if recursive else 0
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth
    tree = libc.syscall(libc.SYS_OPEN_TREE, libc.AT_FDCWD, os.fsencode(source), flags, path=source)
    try:
        set_attributes(tree, MOUNT_ATTR_RDONLY, recursive=recursive)
        _attach(tree, target)
    finally:
        os.close(tree)


def idmap(source: str, target: str, namespace: str, *, recursive: bool = False, propagation: str = "private") -> None:
    """Show `source` at `target` with the ids that the user namespace pinned at `namespace` gives: a file of root's
    belongs to what the namespace calls root. Only the mount of `source` itself is mapped; with `recursive` those below
    come along as they are. `propagation`: "private" or "slave", so that what is unmounted here stays where it was.

    OSError EINVAL: the file system cannot do that (mount_setattr(2)); EOPNOTSUPP: this kernel cannot."""
    if not features.have("idmapped"):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), source)
    depth = libc.AT_RECURSIVE if recursive else 0
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth
    kind = MS_SLAVE if propagation == "slave" else MS_PRIVATE
    tree = libc.syscall(libc.SYS_OPEN_TREE, libc.AT_FDCWD, os.fsencode(source), flags, path=source)
    try:
        user = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set(tree, struct.pack("=QQQQ", 0, 0, kind, 0), libc.AT_EMPTY_PATH | depth, source)
            _set(tree, struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, 0, user), libc.AT_EMPTY_PATH, source)
        finally:
            os.close(user)
        _attach(tree, target)
    finally:
        os.close(tree)


def _set(tree: int, request: bytes, flags: int, path: str) -> None:
    libc.syscall(libc.SYS_MOUNT_SETATTR, tree, b"", flags, request, len(request), path=path)


def set_attributes(tree: int, attributes: int, *, recursive: bool = False) -> None:
    """mount_setattr(2): add MOUNT_ATTR_* to the mount that `tree` (an open_tree or fsmount descriptor) is."""
    request = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    libc.syscall(libc.SYS_MOUNT_SETATTR, tree, b"", flags, request, len(request))


def _attach(tree: int, target: str) -> None:
    libc.syscall(
        libc.SYS_MOVE_MOUNT, tree, b"", libc.AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH, path=target
    )


def tmpfs(target: str, *, size: int = 0, mode: int = 0o755, options: Sequence[str] = ()) -> None:
    """A tmpfs of at most `size` bytes (0: the kernel's half of memory). Options: tmpfs(5), and ro, nosuid, ..."""
    flags, rest = _split_flags(options, 0)
    data = [f"mode={mode:o}", *([f"size={size}"] if size else []), *rest]
    mount("tmpfs", target, "tmpfs", flags, ",".join(data))


def set_propagation(path: str, propagation: str) -> None:
    """`propagation` is "private", "shared" or "slave", with a leading "r" for the whole tree (mount(8))."""
    kinds = {"private": MS_PRIVATE, "shared": MS_SHARED, "slave": MS_SLAVE}
    recursive = propagation.startswith("r")
    mount("", path, flags=kinds[propagation.removeprefix("r")] | (MS_REC if recursive else 0))


def make_private(path: str) -> None:
    set_propagation(path, "private")


def make_shared(path: str) -> None:
    set_propagation(path, "shared")


def make_slave(path: str) -> None:
    set_propagation(path, "slave")


def overlay(
    target: str, *, layers: Sequence[str], upper: str = "", work: str = "", options: Sequence[str] = ()
) -> None:
    """An overlay of `layers` (absolute, topmost first, up to the kernel's 500) below `upper`.

    Without `upper` it is read-only; one layer alone is then a read-only bind, because overlayfs wants two.
    Options: those of Documentation/filesystems/overlayfs.rst, and ro, nosuid, nodev, noexec.
    """
    if not upper and len(layers) == 1:
        bind(layers[0], target, read_only=True)
        return
    paths = [*layers, upper, work]
    if features.have("lowerdir_plus") and all(len(os.fsencode(path)) <= FSCONFIG_STRING for path in paths):
        _overlay_by_fsconfig(target, layers, upper, work, options)
    else:
        _overlay_by_mount(target, layers, upper, work, options)


def _overlay_by_fsconfig(target: str, layers: Sequence[str], upper: str, work: str, options: Sequence[str]) -> None:
    attributes, rest = _split_flags(options, 1)
    context = libc.syscall(libc.SYS_FSOPEN, b"overlay", FSOPEN_CLOEXEC)
    try:
        with _explained(context, target):
            _configure(context, "source", "overlay")
            for layer in layers:
                _configure(context, "lowerdir+", layer)
            if upper:
                _configure(context, "upperdir", upper)
                _configure(context, "workdir", work)
            for option in rest:
                key, equals, value = option.partition("=")
                _configure(context, key, value if equals else None)
            libc.syscall(libc.SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
            tree = libc.syscall(libc.SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        _attach(tree, target)
    finally:
        os.close(tree)


def _configure(context: int, key: str, value: str | None) -> None:
    """fsconfig(2): a string, or a flag if `value` is None."""
    command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
    encoded = None if value is None else os.fsencode(value)
    libc.syscall(libc.SYS_FSCONFIG, context, command, key.encode(), encoded, 0, path=value or key)


@contextlib.contextmanager
def _explained(context: int, target: str) -> Iterator[None]:
    """Add what the file system wrote about its refusal (read from the context, one line each, "e text")."""
    try:
        yield
    except OSError as error:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            while len(lines) < 16:
                lines.append(os.read(context, 1024).decode(errors="replace").strip())
        said = f": {'; '.join(lines)}" if lines else ""
        where = f" ({error.filename})" if error.filename else ""
        raise OSError(error.errno, f"overlay{where}: {error.strerror}{said}", target) from error


def _overlay_by_mount(target: str, layers: Sequence[str], upper: str, work: str, options: Sequence[str]) -> None:
    """mount(2) with names short enough for its one page: relative to the layers' common directory, or, where even
    these do not fit, descriptor numbers. A thread with its own current directory resolves them."""
    flags, rest = _split_flags(options, 0)
    above = [f"upperdir={_escape(upper)}", f"workdir={_escape(work)}"] if upper else []
    data = [*above, *map(quote, rest)]
    common = os.path.commonpath([os.path.dirname(layer) for layer in layers])
    names = [os.path.relpath(layer, common) for layer in layers]

    def mount_from(directory: str, lowers: Sequence[str]) -> None:
        os.chdir(directory)
        lowerdir = ":".join(_escape(name).replace(":", "\\:") for name in lowers)
        mount("overlay", target, "overlay", flags, ",".join([f"lowerdir={lowerdir}", *data]))

    if len(os.fsencode(":".join(map(_escape, names)))) < PAGE - len(os.fsencode(",".join(data))) - 64:
        thread.apart(lambda: mount_from(common, names), unshare=libc.CLONE_FS)
        return
    with contextlib.ExitStack() as stack:
        fds = []
        for layer in layers:
            fds.append(os.open(layer, os.O_PATH | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        thread.apart(lambda: mount_from("/proc/self/fd", [str(fd) for fd in fds]), unshare=libc.CLONE_FS)


def quote(option: str) -> str:
    """An option whose value has a comma, as SELinux contexts have, for the kernel's parser of mount data, which knows
    quotes. fsconfig(2) takes the value as it is."""
    key, equals, value = option.partition("=")
    return f'{key}="{value}"' if equals and "," in value else option


def _escape(path: str) -> str:
    """overlayfs takes a backslash before a comma or a backslash inside a path of its mount data."""
    return path.replace("\\", "\\\\").replace(",", "\\,")


def _split_flags(options: Sequence[str], column: int) -> tuple[int, list[str]]:
    """Generic options as flags (column 0: MS_*, 1: MOUNT_ATTR_*), and the rest."""
    flags = 0
    rest = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option][column]
        else:
            rest.append(option)
    return flags, rest


def mounts(path: str = "/proc/self/mountinfo") -> list[MountInfo]:
    """Every mount of this mount namespace, in the kernel's order (a later one with the same target covers it)."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return [parse_line(line) for line in file]


def parse_line(line: str) -> MountInfo:
    """One line of mountinfo. Optional fields end at a field that is just a hyphen."""
    before, _, after = line.rstrip("\n").partition(" - ")
    id, parent, device, root, target, options, *propagation = before.split(" ")
    fstype, source, super_options = after.split(" ", 2)
    if "\\" in line:
        root, target, source, super_options = map(unescape, (root, target, source, super_options))
    return MountInfo(
        int(id), int(parent), device, root, target, options, " ".join(propagation), fstype, source, super_options
    )


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline, backslash and hash (fs/proc_namespace.c)."""
    if "\\" not in text:
        return text
    head, *parts = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def is_mount(path: str) -> bool:
    """Whether something is mounted on `path` (bind mounts and files too); absent: no. By statx(2), not mountinfo."""
    statx_attr_mount_root = 0x2000  # include/uapi/linux/stat.h, Linux 5.8
    buffer = ctypes.create_string_buffer(256)
    result = libc.libc.statx(libc.AT_FDCWD, os.fsencode(path), libc.AT_SYMLINK_NOFOLLOW, 0, buffer)
    if result < 0:
        if ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR):
            return False
        libc.check(result, path)
    attributes: int = struct.unpack_from("=Q", buffer, 8)[0]
    return bool(attributes & statx_attr_mount_root)


def filesystem_magic(path: str) -> int:
    """statfs(2) f_type: what kind of file system holds `path` (include/uapi/linux/magic.h)."""
    buffer = ctypes.create_string_buffer(256)
    libc.check(libc.libc.statfs(os.fsencode(path), buffer), path)
    magic: int = struct.unpack_from("=q", buffer, 0)[0]
    return magic & 0xFFFFFFFF
