"""Blobs of an OCI image layout as files: names, the moment one becomes visible, index.json.

Plain and synchronous, importing neither asyncio nor sqlite3 nor gRPC, because the processes that download use it
too. Everything here may wait for the disk: the daemon calls it through linux/offload.py (content.py does).

    blobs/<algorithm>/<hex>          complete, synced, immutable
    ingest/<algorithm>-<hex>-<random>  being written
"""

from __future__ import annotations

import errno
import hashlib
import os
import re

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.linux import paths

# image-spec, descriptor.md: digests. Only registered algorithms, only lower-case hex: a digest is also a file name.
_DIGEST = re.compile(r"(sha256):([a-f0-9]{64})|(sha512):([a-f0-9]{128})")
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


def parse_digest(digest: str) -> tuple[str, str]:
    """("sha256", "9f86…"). Raises Invalid for anything but sha256 and sha512 in lower-case hex."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Invalid(f"{digest[:200]!r} is not a digest", hint="sha256:<64 hex> or sha512:<128 hex>, lower case")
    return (match[1], match[2]) if match[1] else (match[3], match[4])


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def path(root: str, digest: str) -> str:
    algorithm, hex = parse_digest(digest)
    return f"{root}/blobs/{algorithm}/{hex}"


def create_ingest(root: str, digest: str) -> str:
    """A new empty file for the bytes of `digest`; two downloads never share one."""
    algorithm, hex = parse_digest(digest)
    ingest = f"{root}/ingest/{algorithm}-{hex}-{os.urandom(4).hex()}"
    os.close(os.open(ingest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE))
    return ingest


def publish(root: str, ingest: str, digest: str, size: int) -> None:
    """Make the ingested file the blob `digest`: size checked, on disk (file, then name) when this returns.

    The caller has hashed the bytes. A repeat after a kill finds the blob in place and does nothing. Errors: CORRUPT
    if the size differs (the ingest is removed: it cannot become right), EXHAUSTED if the disk is full, NotFound."""
    blob = path(root, digest)
    try:
        file = os.open(ingest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if is_blob(blob, size):
            return
        raise NotFound(f"nothing was ingested for {digest}") from None
    try:
        found = os.fstat(file).st_size
        if found != size:
            os.unlink(ingest)
            raise RopewalkError(f"{digest} has {found} bytes, {size} were promised", kind=Kind.CORRUPT)
        os.fsync(file)
        os.rename(ingest, blob)
        paths.sync_directory(os.path.dirname(blob))
    except OSError as error:
        raise explain(error, f"cannot store {digest}") from error
    finally:
        os.close(file)


def write(root: str, digest: str, data: bytes) -> None:
    """Store a small document, its digest checked (CORRUPT)."""
    algorithm, hex = parse_digest(digest)
    found = hashlib.new(algorithm, data).hexdigest()
    if found != hex:
        raise RopewalkError(f"{digest} has digest {algorithm}:{found}", kind=Kind.CORRUPT)
    try:
        ingest = create_ingest(root, digest)
        try:
            with open(ingest, "wb") as file:
                file.write(data)
        except OSError:
            os.unlink(ingest)
            raise
    except OSError as error:
        raise explain(error, f"cannot store {digest}") from error
    publish(root, ingest, digest, len(data))


def is_intact(root: str, digest: str) -> bool:
    """Whether the blob's bytes still have its digest. Reads all of them."""
    algorithm, hex = parse_digest(digest)
    with open(path(root, digest), "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == hex


def write_index(root: str, content: bytes) -> None:
    """Replace index.json: a reader, or a power cut, sees the old bytes or the new ones."""
    try:
        paths.write_atomic(f"{root}/index.json", content, FILE_MODE, sync=True)
    except OSError as error:
        raise explain(error, f"cannot write {root}/index.json") from error


def is_blob(blob: str, size: int) -> bool:
    try:
        return os.lstat(blob).st_size == size
    except FileNotFoundError:
        return False


def explain(error: OSError, doing: str) -> RopewalkError:
    """A failed write in the caller's terms: a full disk or quota is EXHAUSTED."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RopewalkError(
        f"{doing}: {os.strerror(error.errno or errno.EIO)}",
        hint="free space or inodes on that file system" if full else "",
        kind=Kind.EXHAUSTED if full else Kind.INTERNAL,
    )
