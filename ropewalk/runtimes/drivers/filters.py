"""Seccomp filters that crun compiled once, given back to it ready-made.

Compiling RuntimeDefault costs crun 9 ms of CPU for every container (libseccomp; crun's own cache needs a build with
libgcrypt, which Debian's is not). crun leaves the compiled program at <root>/<id>/seccomp.bpf, and takes one, base64,
in the annotation run.oci.seccomp_bpf_data (crun(1)). Kept in memory only: it belongs to this kernel, by what it was
compiled from. Annotations of users never reach the spec, and this one is overwritten in any case.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from ropewalk.runtimes.oci import build

ANNOTATION = "run.oci.seccomp_bpf_data"
LIMIT = 64  # filters, some 10 KiB each
LARGEST = 4096 * 8  # bytes: BPF_MAXINSNS instructions of struct sock_filter


class Filters:
    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def attach(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The spec with the filter for its seccomp section, if one is known; and with no other."""
        bare = detach(spec)
        known = self._known.get(_key(spec))
        return {**bare, "annotations": {**bare.get("annotations", {}), ANNOTATION: known}} if known else bare

    def learn(self, spec: dict[str, Any], compiled: str) -> None:
        """Keep the filter in the file `compiled` that crun made of `spec`; absent: there is nothing to learn."""
        key = _key(spec)
        if not key or key in self._known:
            return
        try:
            with open(compiled, "rb") as file:
                program = file.read(LARGEST + 1)
        except FileNotFoundError:
            return
        if not program or len(program) > LARGEST or len(program) % 8:
            return
        while len(self._known) >= LIMIT:
            del self._known[next(iter(self._known))]
        self._known[key] = base64.b64encode(program).decode()


def detach(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without a ready-made filter."""
    if ANNOTATION not in spec.get("annotations", {}):
        return spec
    return {**spec, "annotations": {name: value for name, value in spec["annotations"].items() if name != ANNOTATION}}


def _key(spec: dict[str, Any]) -> bytes:
    """Digest of the seccomp section; b"" if there is none."""
    section = spec.get("linux", {}).get("seccomp")
    return hashlib.sha256(build.encode(section)).digest() if section else b""
