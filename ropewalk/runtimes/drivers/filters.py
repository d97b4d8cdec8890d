"""Seccomp filters that crun compiled once, given back to it ready-made.

Compiling RuntimeDefault costs crun 9 ms of CPU for every container (libseccomp; crun's own cache needs a build with
libgcrypt, which Debian's is not). crun leaves the compiled program at <root>/<id>/seccomp.bpf, and takes one, base64,
in the annotation run.oci.seccomp_bpf_data (crun(1)).

A filter is kept under the digest of the seccomp section that it was made from - profile, capabilities and
architectures are resolved in there - and of the files of who made it, crun and libseccomp: a newer libseccomp knows
more calls, and a profile that allows what it does not name must then be compiled anew. It is kept in memory only, so
it belongs to this kernel, and a daemon that is killed while it learns has learned nothing. Annotations of users never
reach the spec, and this one is overwritten in any case.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import stat
from typing import Any, NamedTuple

from ropewalk.linux import bpf
from ropewalk.runtimes.oci import build

ANNOTATION = "run.oci.seccomp_bpf_data"
LIMIT = 64  # filters, some 10 KiB each
LARGEST = bpf.MAX_INSTRUCTIONS * bpf.SIZE
# A create that began before crun or libseccomp was replaced may end after it. No create takes so long.
UPGRADE_NS = 60 * 10**9
LIBRARIES = tuple(
    f"{directory}/libseccomp.so.2"
    for directory in ("/lib*", "/usr/lib*", "/usr/lib*/*-linux-*", "/usr/local/lib*", "/usr/local/lib*/*-linux-*")
)
WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class Compiler(NamedTuple):
    """Who makes filters, as files: device, inode, size, times of each. A static crun has no library beside it."""

    files: tuple[tuple[int, ...], ...]
    since: int  # the youngest one's change, ns of the epoch


class Filters:
    def __init__(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self._known: dict[bytes, str] = {}
        self._libraries = sorted({path for pattern in libraries for path in glob.glob(pattern)})

    def compiler(self, program: str) -> Compiler:
        """`program`: crun as it is installed."""
        seen = []
        for path in (program, *self._libraries):
            try:
                status = os.stat(path)
            except OSError:
                continue
            seen.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        return Compiler(tuple(seen), max((file[-1] for file in seen), default=0))

    def attach(self, spec: dict[str, Any], compiler: Compiler) -> dict[str, Any]:
        """The spec with the filter for its seccomp section, if one is known; and with no other."""
        bare = detach(spec)
        known = self._known.get(_key(spec, compiler))
        return {**bare, "annotations": {**bare.get("annotations", {}), ANNOTATION: known}} if known else bare

    def learn(self, spec: dict[str, Any], compiled: str, compiler: Compiler) -> None:
        """Keep the filter in the file `compiled` that crun made of `spec`, if it is whole, and nobody else's."""
        key = _key(spec, compiler)
        if not key or key in self._known:
            return
        program = _read(compiled, since=compiler.since)
        if not bpf.is_filter(program):
            return
        while len(self._known) >= LIMIT:
            del self._known[next(iter(self._known))]
        self._known[key] = base64.b64encode(program).decode()


def is_attached(spec: dict[str, Any]) -> bool:
    return ANNOTATION in spec.get("annotations", {})


def detach(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without a ready-made filter."""
    if not is_attached(spec):
        return spec
    return {**spec, "annotations": {name: value for name, value in spec["annotations"].items() if name != ANNOTATION}}


def _read(path: str, *, since: int) -> bytes:
    """The file's content; b"" if there is none, if it is no plain file that only we can write, or if its maker may have
    changed under way."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(fd)
        own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & WRITABLE
        return os.pread(fd, LARGEST + 1, 0) if own and status.st_mtime_ns - since > UPGRADE_NS else b""
    finally:
        os.close(fd)


def _key(spec: dict[str, Any], compiler: Compiler) -> bytes:
    """Digest of the seccomp section and its compiler; b"" if there is none."""
    section = spec.get("linux", {}).get("seccomp")
    return hashlib.sha256(build.encode(section) + repr(compiler.files).encode()).digest() if section else b""
