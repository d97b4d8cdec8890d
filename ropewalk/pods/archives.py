"""Checkpoint archives: one tar file for a container, as podman, CRI-O and containerd lay it out.

    config.dump     whose checkpoint it is: id, name, image, runtime, times, and under "ropewalk" what restoring needs
    spec.dump       the runtime spec that it ran with
    status.dump     its CRI status
    checkpoint/     what the runtime wrote

An archive is written under no name and gets its name when it is whole and on disk, so no reader meets half of one, and
a writer that is killed leaves nothing. Nothing that exists is overwritten.

What is read is believed little: of an archive only config.dump's few fields and the runtime's files are used, each
bounded before it is read. The spec of a restored container is the live request's; spec.dump and status.dump are for
people and tools. Everything here may take its time: call it by linux/offload.py.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import msgspec
from msgspec import Struct

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError, Unsupported
from ropewalk.images.worker import tar
from ropewalk.linux import paths

CONFIG, SPEC, STATUS, DIRECTORY = "config.dump", "spec.dump", "status.dump", "checkpoint"
MAX_CONFIG = 1 << 20  # bytes of config.dump
MAX_FILES = 64  # below checkpoint/
MODE = 0o600
CHUNK = 1 << 20

_FILE = re.compile(r"(?:\./)?checkpoint/([A-Za-z0-9_][A-Za-z0-9._-]{0,127})\Z", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Origin(Struct, frozen=True, omit_defaults=True):
    """What only this project writes. `runtime_version`: what the handler's probe called it; `image_id`: the config
    digest of its image."""

    handler: str = ""
    runtime_version: str = ""
    image_id: str = ""


class Config(Struct, frozen=True, rename="camel"):
    """config.dump, with the keys of checkpointctl's ContainerConfig."""

    id: str = ""
    name: str = ""
    rootfs_image: str = ""
    rootfs_image_ref: str = ""
    rootfs_image_name: str = ""
    runtime: str = ""
    created_time: str = ""
    checkpointed_time: str = ""
    restored_time: str = "0001-01-01T00:00:00Z"  # Go's zero time
    restored: bool = False
    ropewalk: Origin = Origin()


def write(location: str, directory: str, documents: Mapping[str, bytes]) -> int:
    """An archive at `location` of `documents` and of the files in `directory`; its size. Errors name the location."""
    try:
        return _write(location, directory, documents)
    except FileExistsError:
        raise RopewalkError(f"{location} exists", hint="a checkpoint overwrites nothing", kind=Kind.EXISTS) from None
    except OSError as error:
        kind = Kind.EXHAUSTED if error.errno in _FULL else Kind.INTERNAL
        raise RopewalkError(f"cannot write the checkpoint {location}: {error.strerror}", kind=kind) from error


def check_location(location: str) -> None:
    """Before anything is done for an archive there."""
    if not location.startswith("/") or "\0" in location or not os.path.basename(location):
        raise Invalid(f"location {location!r} is not the absolute path of a file")
    if not os.path.isdir(os.path.dirname(location)):
        raise NotFound(f"there is no directory for the checkpoint {location}")
    if os.path.lexists(location):
        raise RopewalkError(f"{location} exists", hint="a checkpoint overwrites nothing", kind=Kind.EXISTS)


def _write(location: str, directory: str, documents: Mapping[str, bytes]) -> int:
    parent, name = os.path.split(location)
    top = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(_nameless(top, parent), "w+b") as file:
            os.fchmod(file.fileno(), MODE)
            _pack(file, directory, documents)
            file.flush()
            os.fsync(file.fileno())
            os.link(f"/proc/self/fd/{file.fileno()}", name, dst_dir_fd=top)  # follows that link only with a dir_fd
            size = os.fstat(file.fileno()).st_size
        os.fsync(top)
        return size
    finally:
        os.close(top)


def _nameless(top: int, parent: str) -> int:
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, MODE, dir_fd=top)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        raise Unsupported(
            f"the file system of {parent} has no files without a name (O_TMPFILE)",
            hint="ext4, xfs, btrfs and tmpfs have; write the checkpoint there",
        ) from error


def _pack(file: BinaryIO, directory: str, documents: Mapping[str, bytes]) -> None:
    now = int(time.time())
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in documents.items():
            archive.addfile(_member(name, len(content), now), io.BytesIO(content))
        top = _member(DIRECTORY, 0, now)
        top.type, top.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(top)
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as one:
                archive.addfile(_member(f"{DIRECTORY}/{name}", os.fstat(one.fileno()).st_size, now), one)


def _member(name: str, size: int, at: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mtime, found.mode = size, at, MODE
    return found


def read(path: str, allowed: Sequence[str]) -> Config:
    """Whose checkpoint the archive at `path` is; `allowed`: the directories that it may be in."""
    with _explained(path), _open(path, allowed) as file:
        pieces = tar.Pieces(_chunks(file))
        for entry in tar.read_entries(pieces):
            if entry.name.removeprefix(b"./") == CONFIG.encode():
                return _config(path, entry, pieces)
            pieces.skip(entry.size)
    raise Invalid(f"{path} is not the checkpoint of a container: it has no {CONFIG}")


def unpack(path: str, allowed: Sequence[str], directory: str) -> Config:
    """Likewise, and its runtime's files in `directory`, which is made for it."""
    config: Config | None = None
    count = 0
    with _explained(path), _open(path, allowed) as file:
        os.makedirs(directory, mode=0o700)
        pieces = tar.Pieces(_chunks(file))
        for entry in tar.read_entries(pieces):
            found = _FILE.match(entry.name.decode(errors="replace"))
            if config is None and entry.name.removeprefix(b"./") == CONFIG.encode():
                config = _config(path, entry, pieces)
            elif found and entry.type == tar.REGULAR:
                count += 1
                if count > MAX_FILES:
                    raise Invalid(f"{path} has more than {MAX_FILES} files in {DIRECTORY}/")
                _extract(os.path.join(directory, found[1]), entry, pieces)
            else:
                pieces.skip(entry.size)
    if config is None or not count:
        raise Invalid(f"{path} is not the checkpoint of a container: it has no {CONFIG if count else DIRECTORY}")
    return config


def _open(path: str, allowed: Sequence[str]) -> BinaryIO:
    """Only root's own files, in directories that the configuration names: what is in an archive becomes the memory of
    a container, and whoever may create a container could name any file of the node."""
    clean = os.path.normpath(path)
    base = next((one for one in allowed if clean.startswith(one.rstrip("/") + "/")), None)
    if base is None:
        raise RopewalkError(
            f"{path} is not in a directory that checkpoints are restored from",
            hint=f"[checkpoints] restore_from is {', '.join(allowed) or 'empty'}",
            kind=Kind.DENIED,
        )
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = paths.open_in(base, os.path.relpath(clean, base), flags)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no checkpoint {path}") from None
    except OSError as error:
        raise Invalid(f"cannot read the checkpoint {path}: {error.strerror}") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise RopewalkError(
            f"{path} is not a regular file that only root may write (owner {found.st_uid}, mode {found.st_mode:o})",
            hint="chown root, chmod 0600, if you know who wrote it",
            kind=Kind.DENIED,
        )
    return open(fd, "rb", buffering=0)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What is wrong with an archive, or with the disk, as an error that names the archive."""
    try:
        yield
    except tar.BadArchive as error:
        raise tar.BadArchive(f"{path}: {error.message}") from None
    except FileExistsError as error:
        raise Invalid(f"{path} has a file twice: {error.filename}") from None
    except OSError as error:
        kind = Kind.EXHAUSTED if error.errno in _FULL else Kind.INTERNAL
        raise RopewalkError(f"cannot unpack the checkpoint {path}: {error}", kind=kind) from error


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _config(path: str, entry: tar.Entry, pieces: tar.Pieces) -> Config:
    if entry.type != tar.REGULAR or entry.size > MAX_CONFIG:
        raise Invalid(f"{path}: {CONFIG} is no file of at most {MAX_CONFIG} bytes")
    content = pieces.take(entry.size)
    try:
        return msgspec.json.decode(content, type=Config)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{path}: {CONFIG}: {error}") from None


def _extract(target: str, entry: tar.Entry, pieces: tar.Pieces) -> None:
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE), "wb") as file:
        for piece in pieces.pieces(entry.size):
            file.write(piece)
