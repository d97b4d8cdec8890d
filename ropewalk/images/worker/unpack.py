"""Entries of a layer become files below one directory, by file descriptor only (image-spec, layer.md).

A layer is unpacked alone, not onto its parents, into the form overlayfs reads: a whiteout is a character device
0/0, an opaque directory has the xattr trusted.overlay.opaque=y. Only the layer's own `.wh.` entries make those: a
device 0/0 or an overlay xattr inside the archive is not honoured.

No name reaches the kernel as a path. Directories are walked one component at a time with O_NOFOLLOW; where a
component is a symbolic link of this layer, openat2(2) resolves it with the layer as root. Directories get their
metadata last, so that a setgid bit or a default ACL does not act on what is created below, and times stay.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.jobs import Limits
from ropewalk.images.worker import tar
from ropewalk.images.worker.tar import BadArchive, Entry
from ropewalk.linux import paths

MAX_DEPTH = 255  # components; one descriptor is open for each of the current entry
MAX_NAME = 255  # NAME_MAX
MAX_NOTES = 20  # of a layer
MAX_IMPLIED = 32 << 20  # bytes of the names of directories that no entry described: they go to the daemon in one frame
MAX_KEPT = 64 << 20  # bytes of the directories' extended attributes, which wait in memory for the end
_KEPT = 100  # bytes that a small one takes beyond its own
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"
MAX_MAJOR, MAX_MINOR = 1 << 12, 1 << 20  # include/linux/kdev_t.h

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL = "system.posix_acl_"
_BLOCK = 512
# The node's fault, not the archive's.
_NODE_PROBLEMS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
)


class TooLarge(RopewalkError):
    """A layer exceeds what the configuration allows on disk."""

    kind = Kind.EXHAUSTED


def components(name: bytes) -> list[bytes]:
    """The parts of an entry's name. Absolute names begin at the layer's root; ".." and overlong parts are refused."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    for part in parts:
        if part == b"..":
            raise BadArchive(f'entry {name[:200]!r} has ".." in its name')
        if len(part) > MAX_NAME:
            raise BadArchive(f"entry {name[:200]!r}… has a component of {len(part)} bytes")
    if len(parts) > MAX_DEPTH:
        raise BadArchive(f"entry {name[:200]!r}… is {len(parts)} directories deep, at most {MAX_DEPTH}")
    return parts


class Unpacker:
    """Unpacks one layer below the directory `root`. `bytes`, `inodes`: what it came to; `implied`: directories
    that an entry's name needs but no entry described."""

    def __init__(self, root: str, limits: Limits) -> None:
        self.bytes = 0
        self.inodes = 1
        self.notes: list[str] = []
        self._limits = limits
        self._entries = 0
        self._root = os.open(root, _DIRECTORY)
        self._stack: list[tuple[bytes, int]] = []  # the way to the current directory: (name, descriptor)
        self._described: dict[tuple[bytes, ...], Entry] = {}  # directories whose metadata is still to be set
        self._implied: dict[tuple[bytes, ...], None] = {}
        self._implied_bytes = self._kept = 0
        self._whiteouts: set[tuple[bytes, ...]] = set()
        self._owner = (os.geteuid(), os.getegid())

    def close(self) -> None:
        self._ascend(0)
        os.close(self._root)

    @property
    def implied(self) -> list[bytes]:
        return [b"/".join(parts) for parts in self._implied]

    def unpack(self, source: tar.Pieces) -> None:
        """Every entry of the archive. Raises BadArchive, TooLarge, Unsupported, OSError from the disk."""
        for entry in tar.read_entries(source):
            self._count(entry)
            self._apply(entry, source)
        self._finish()

    def _count(self, entry: Entry) -> None:
        self._entries += 1
        if self._entries > self._limits.layer_inodes:
            raise TooLarge(f"the layer has more than {self._limits.layer_inodes} entries")

    def _apply(self, entry: Entry, source: tar.Pieces) -> None:
        parts = components(entry.name)
        content = source.pieces(entry.size)
        if not parts:
            if entry.type == tar.DIRECTORY:
                self._describe((), entry)
            _discard(content)
            return
        name, parents = parts[-1], parts[:-1]
        try:
            if name.startswith(WHITEOUT) or any(part.startswith(WHITEOUT) for part in parents):
                self._white_out(parents, name)
            else:
                self._make(entry, tuple(parts), self._enter(parents), name, content)
        except OSError as error:
            if error.errno in _NODE_PROBLEMS:
                raise
            raise BadArchive(f"entry {entry.name[:200]!r} cannot be unpacked: {error.strerror}") from error
        _discard(content)

    # -- the way to a directory

    def _enter(self, parents: list[bytes]) -> int:
        """A descriptor of the directory; what is missing on the way is made (root's, 0755)."""
        common = 0
        for (held, _), wanted in zip(self._stack, parents, strict=False):
            if held != wanted:
                break
            common += 1
        self._ascend(common)
        for depth in range(common, len(parents)):
            self._stack.append((parents[depth], self._step(parents, depth)))
        return self._stack[-1][1] if self._stack else self._root

    def _ascend(self, depth: int) -> None:
        while len(self._stack) > depth:
            os.close(self._stack.pop()[1])

    def _step(self, parents: list[bytes], depth: int) -> int:
        """One component down from the current directory."""
        here, name = (self._stack[-1][1] if self._stack else self._root), parents[depth]
        try:
            return os.open(name, _DIRECTORY, dir_fd=here)
        except FileNotFoundError:
            self._make_implied(here, tuple(parents[: depth + 1]))
            return os.open(name, _DIRECTORY, dir_fd=here)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
        way = tuple(parents[: depth + 1])
        if way in self._whiteouts:
            os.unlink(name, dir_fd=here)
            self._make_implied(here, way)
            child = os.open(name, _DIRECTORY, dir_fd=here)
            self._hide_below(way, child)
            return child
        # A link (or a plain file, which fails): as if the layer were a root file system of its own.
        return paths.open_in(self._root, os.fsdecode(b"/".join(way)), os.O_RDONLY | os.O_DIRECTORY)

    def _make_implied(self, parent: int, way: tuple[bytes, ...]) -> None:
        os.mkdir(way[-1], 0o755, dir_fd=parent)
        self._implied[way] = None
        self._implied_bytes += sum(map(len, way)) + len(way)
        if self._implied_bytes > MAX_IMPLIED:
            raise TooLarge(f"the layer leaves out directories whose names are more than {MAX_IMPLIED} bytes")
        self._add_inode()

    # -- whiteouts

    def _white_out(self, parents: list[bytes], name: bytes) -> None:
        if any(part.startswith(WHITEOUT) for part in parents) or (name.startswith(WHITEOUT * 2) and name != OPAQUE):
            return  # AUFS's own bookkeeping (.wh..wh.plnk, .wh..wh.aufs)
        if name == OPAQUE:
            os.setxattr(self._enter(parents), OVERLAY_OPAQUE, b"y")
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise BadArchive(f"whiteout {name!r} names no file")
        parent, way = self._enter(parents), (*parents, hidden)
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:  # this layer's own file; only what is below is meant (layer.md, whiteouts)
            if way not in self._whiteouts and _is_directory(parent, hidden):
                child = os.open(hidden, _DIRECTORY, dir_fd=parent)
                try:
                    self._hide_below(way, child)
                finally:
                    os.close(child)
            return
        self._whiteouts.add(way)
        self._add_inode()

    def _hide_below(self, way: tuple[bytes, ...], directory: int) -> None:
        """A new directory in place of the one below, with which it has nothing in common."""
        os.setxattr(directory, OVERLAY_OPAQUE, b"y")
        self._implied.pop(way, None)

    # -- entries

    def _make(
        self, entry: Entry, way: tuple[bytes, ...], parent: int, name: bytes, content: Iterable[bytes | memoryview]
    ) -> None:
        """Create the entry; what the same layer put there before gives way, a directory to a directory excepted."""
        if entry.type == tar.CHARACTER and (entry.major, entry.minor) == (0, 0):
            self._note(f"ignored {entry.name[:200]!r}: a device 0/0 would be a whiteout")
            return
        hidden = False
        try:
            self._create(entry, parent, name, content)
        except FileExistsError:
            hidden = not _is_directory(parent, name)  # what was there, a whiteout or a file, hid what is below
            if entry.type == tar.DIRECTORY and not hidden:
                self._describe(way, entry)
                self._implied.pop(way, None)
                return
            self._remove(way, parent, name)
            self._create(entry, parent, name, content)
        self._add_inode()
        if entry.type == tar.DIRECTORY:
            self._describe(way, entry)
            if hidden:
                child = os.open(name, _DIRECTORY, dir_fd=parent)
                self._hide_below(way, child)
                os.close(child)

    def _create(self, entry: Entry, parent: int, name: bytes, content: Iterable[bytes | memoryview]) -> None:
        if entry.type == tar.REGULAR:
            self._write(entry, parent, name, content)
        elif entry.type == tar.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.type == tar.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            self._describe_by_name(entry, parent, name)
        elif entry.type == tar.LINK:
            self._link(entry, parent, name)
        else:
            os.mknod(name, _device_mode(entry), os.makedev(entry.major, entry.minor), dir_fd=parent)
            self._describe_by_name(entry, parent, name)

    def _write(self, entry: Entry, parent: int, name: bytes, content: Iterable[bytes | memoryview]) -> None:
        file = os.open(name, _CREATE, entry.mode & 0o777, dir_fd=parent)
        try:
            self.bytes += -(-entry.size // _BLOCK) * _BLOCK
            if self.bytes > self._limits.layer_bytes:
                raise TooLarge(f"the layer unpacks to more than {self._limits.layer_bytes} bytes")
            for piece in content:
                while piece:
                    piece = piece[os.write(file, piece) :]
            if (entry.uid, entry.gid) != self._owner:
                os.fchown(file, entry.uid, entry.gid)
            if entry.mode & 0o7000:
                os.fchmod(file, entry.mode)
            if entry.xattrs:
                self._set_xattrs(entry, file)
            os.utime(file, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(file)

    def _link(self, entry: Entry, parent: int, name: bytes) -> None:
        """A hard link within the layer; never to a whiteout of ours, never through the target if it is a link."""
        target = components(entry.link)
        if not target or tuple(target) in self._whiteouts:
            raise BadArchive(f"entry {entry.name[:200]!r} is a hard link to {entry.link[:200]!r}")
        try:
            way = os.fsdecode(b"/".join(target[:-1])) or "."
            directory = paths.open_in(self._root, way, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise BadArchive(f"entry {entry.name[:200]!r} links to {entry.link[:200]!r}, which is absent") from error
        try:
            os.link(target[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)
        self.inodes -= 1  # no new one

    def _remove(self, way: tuple[bytes, ...], parent: int, name: bytes) -> None:
        """What the layer itself put at this name. Its open descriptors end at the parent, so none is stale."""
        if _is_directory(parent, name):
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
        self._whiteouts.discard(way)
        self._implied.pop(way, None)

    def _add_inode(self) -> None:
        self.inodes += 1
        if self.inodes > self._limits.layer_inodes:
            raise TooLarge(f"the layer has more than {self._limits.layer_inodes} files")

    # -- metadata

    def _describe(self, way: tuple[bytes, ...], entry: Entry) -> None:
        """Keep a directory's metadata until the end."""
        wanted = {key: value for key, value in entry.xattrs.items() if is_wanted(key)}
        self._kept += sum(len(key) + len(value) + _KEPT for key, value in wanted.items())
        if self._kept > MAX_KEPT:
            raise TooLarge(f"the layer's directories have more than {MAX_KEPT} bytes of extended attributes")
        self._described[way] = entry._replace(xattrs=wanted) if len(wanted) < len(entry.xattrs) else entry

    def _note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)

    def _describe_by_name(self, entry: Entry, parent: int, name: bytes) -> None:
        """Owner, mode, xattrs and times of what is not opened: links, devices, fifos."""
        if (entry.uid, entry.gid) != self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.type != tar.SYMLINK and entry.mode & 0o7000:
            os.chmod(f"/proc/self/fd/{parent}/{os.fsdecode(name)}", entry.mode)
        if entry.xattrs:
            self._set_xattrs(entry, os.fsencode(f"/proc/self/fd/{parent}/") + name)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _finish(self) -> None:
        """Metadata of directories, children before parents."""
        for way, entry in sorted(self._described.items(), reverse=True):
            self._ascend(0)
            directory = self._reopen(way)
            if directory is None:
                continue
            try:
                os.fchown(directory, entry.uid, entry.gid)
                os.fchmod(directory, entry.mode)
                self._set_xattrs(entry, directory)
                os.utime(directory, ns=(entry.mtime, entry.mtime))
            finally:
                os.close(directory)

    def _reopen(self, way: tuple[bytes, ...]) -> int | None:
        """None: a later entry put something else there."""
        try:
            path = os.fsdecode(b"/".join(way)) or "."
            return paths.open_in(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def _set_xattrs(self, entry: Entry, file: int | bytes) -> None:
        """File capabilities, user and trusted attributes, ACLs; never the overlay's own, never a security label."""
        for key, value in entry.xattrs.items():
            if not is_wanted(key):
                continue
            try:
                os.setxattr(file, key, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ERANGE):
                    raise
                self._note(f"{entry.name[:200]!r} goes without {key[:100]}: {error.strerror}")


def is_wanted(xattr: str) -> bool:
    """Whether an archive's extended attribute is applied."""
    if xattr.startswith(("trusted.overlay.", "user.overlay.")) or "\0" in xattr:
        return False
    return xattr == "security.capability" or xattr.startswith(("user.", "trusted.", _ACL))


def _device_mode(entry: Entry) -> int:
    if entry.type == tar.FIFO:
        return stat.S_IFIFO | entry.mode & 0o777
    if not (0 <= entry.major < MAX_MAJOR and 0 <= entry.minor < MAX_MINOR):
        raise BadArchive(f"entry {entry.name[:200]!r} is a device {entry.major}/{entry.minor}, which cannot be")
    return (stat.S_IFCHR if entry.type == tar.CHARACTER else stat.S_IFBLK) | entry.mode & 0o777


def _is_directory(parent: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _discard(content: Iterable[bytes | memoryview]) -> None:
    for _ in content:
        pass
