"""A layer in one pass: fetch, digest, store, inflate, diff digest, unpack, sync.

The bytes are checked when the last one has passed, after files were made of them: until the daemon commits the
snapshot and the blob, neither is visible, and on any error both are dropped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Protocol

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import jobs
from ropewalk.images.descriptor import BadDocument
from ropewalk.images.worker import accounts, inflate, registry, tar, unpack
from ropewalk.linux import libc

REPORT = 0.1  # seconds between progress reports
CHUNK = 256 << 10

Tell = Callable[[jobs.Progress], None]


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def fetch_layer(job: jobs.Layer, tell: Tell) -> jobs.Unpacked:
    """Raises BadDocument, BadArchive, Bomb, TooLarge, registry errors; EXHAUSTED on a full disk."""
    notes: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            pieces = stack.enter_context(contextlib.closing(_compressed(job, tell, notes)))
            result = _unpack(job, pieces)
    except (tar.BadArchive, unpack.TooLarge, inflate.Bomb, inflate.BadCompression) as error:
        raise RopewalkError(
            f"layer {job.layer.descriptor.digest} of {job.source.repository}: {error.message}",
            hint=error.hint,
            kind=error.kind,
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RopewalkError(
                f"no space to unpack layer {job.layer.descriptor.digest}",
                hint="free space or inodes on the file system of the root directory",
                kind=Kind.EXHAUSTED,
            ) from error
        raise
    return jobs.Unpacked(
        size=job.layer.descriptor.size,
        implied=result.implied,
        passwd=result.passwd,
        group=result.group,
        notes=notes + result.notes,
        inodes=result.inodes,
        disk_bytes=result.disk_bytes,
    )


def _compressed(job: jobs.Layer, tell: Tell, notes: list[str]) -> Generator[bytes, None, None]:
    """The blob's bytes, written to the ingest on the way; digest and size are right, or this raises at the end."""
    blob = job.layer.descriptor
    digest = _hash(blob.digest)
    seen, told = 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(_source(job, notes)))
        ingest = stack.enter_context(_writer(job.ingest))
        for piece in source:
            digest.update(piece)
            ingest(piece)
            seen += len(piece)
            yield piece
            if time.monotonic() - told > REPORT:
                told = time.monotonic()
                tell(jobs.Progress(seen))
    tell(jobs.Progress(seen))
    _check(blob.digest, digest, f"layer of {job.source.repository}")
    if seen != blob.size:
        raise BadDocument(f"layer {blob.digest} has {seen} bytes, not {blob.size}")


def _source(job: jobs.Layer, notes: list[str]) -> Generator[bytes, None, None]:
    if job.blob:
        with open(job.blob, "rb", buffering=0) as file:
            while piece := file.read(CHUNK):
                yield piece
        return
    remote = registry.Registry(job.source)
    yield from remote.read_blob(job.layer.descriptor)
    notes += remote.notes


@contextlib.contextmanager
def _writer(path: str) -> Iterator[Callable[[bytes], object]]:
    """Writes to the ingest file; nothing for "". Durable by `sync` here and by the daemon's commit."""
    if not path:
        yield lambda piece: None
        return
    with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), "wb", buffering=0) as file:  # the daemon made it

        def write(piece: bytes) -> None:
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]

        yield write


def _unpack(job: jobs.Layer, pieces: Iterable[bytes]) -> jobs.Unpacked:
    """Inflate and unpack; the diff id is right, or this raises."""
    plain = _digested(inflate.inflate(pieces, job.limits), job.layer.diff_id)
    if not job.directory:
        for _ in plain:
            pass
        return jobs.Unpacked(size=0)
    source = tar.Pieces(plain)
    unpacker = unpack.Unpacker(job.directory, job.limits)
    try:
        unpacker.unpack(source)
        source.drain()
    finally:
        unpacker.close()
    passwd, group, notes = accounts.read_accounts(job.directory)
    sync(job.directory)
    return jobs.Unpacked(
        size=0,
        implied=unpacker.implied,
        passwd=passwd,
        group=group,
        notes=[*unpacker.notes, *notes],
        inodes=unpacker.inodes,
        disk_bytes=unpacker.bytes,
    )


def _digested(plain: Iterable[bytes], diff_id: str) -> Iterator[bytes]:
    digest = _hash(diff_id)
    for piece in plain:
        digest.update(piece)
        yield piece
    _check(diff_id, digest, "the layer's uncompressed content")


def _hash(digest: str) -> _Hash:
    return hashlib.new(digest.partition(":")[0])


def _check(expected: str, digest: _Hash, what: str) -> None:
    algorithm = expected.partition(":")[0]
    found = f"{algorithm}:{digest.hexdigest()}"
    if found != expected:
        raise BadDocument(f"{what} has the digest {found}, not {expected}")


def sync(directory: str) -> None:
    """syncfs(2): every file of the layer is on disk when this returns."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc.check(libc.libc.syncfs(fd), directory)
    finally:
        os.close(fd)
