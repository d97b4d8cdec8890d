"""One image in a fake registry, and the ways tests ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.images import jobs
from ropewalk.images.descriptor import Descriptor, Platform
from ropewalk.images.worker import registry, resolve
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.registry import Answer, Request

LAYER = oci.layer([oci.File("data", os.urandom(700_000))], "")
IMAGE = oci.Image([LAYER], {"User": "www-data"})
BLOB = Descriptor(LAYER.media_type, LAYER.digest, len(LAYER.blob))
AMD64 = Platform("linux", "amd64", "v1")


def run(fake: fakes.Registry, target: str = "1", *, known: str = "", **source: object) -> jobs.Resolved:
    return resolve.resolve(jobs.Resolve(fake.source(**source), target, AMD64, known))


def read(fake: fakes.Registry, blob: Descriptor = BLOB, **source: object) -> bytes:
    return b"".join(registry.Registry(fake.source(**source)).read_blob(blob))


def refusal(call: Callable[[], object]) -> RopewalkError:
    with pytest.raises(RopewalkError) as caught:
        call()
    return caught.value


def cut_at(*positions: int) -> fakes.Script:
    """Send up to each position in turn, then cut."""
    left = list(positions)

    def script(request: Request, answer: Answer) -> bool:
        if "/blobs/" not in request.path or not left:
            return False
        start, end = int(request.headers.get("range", "bytes=0-")[6:-1]), left.pop(0)
        length = {"Content-Length": str(len(LAYER.blob) - start)}
        content_range = {"Content-Range": f"bytes {start}-{len(LAYER.blob) - 1}/{len(LAYER.blob)}"} if start else {}
        answer.send(206 if start else 200, LAYER.blob[start:end], {**length, **content_range})
        return answer.cut()

    return script
