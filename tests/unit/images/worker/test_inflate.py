"""Compressed streams, cut anywhere, come out whole; damaged ones and bombs do not."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator

import pytest

from ropewalk.images.jobs import Limits
from ropewalk.images.worker import inflate
from tests.fakes.oci import zstd

LIMITS = Limits(layer_bytes=1 << 40, layer_inodes=1, ratio=1000)
PLAIN = os.urandom(3000) + bytes(5000) + b"text " * 1000
SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"12345"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def run(data: bytes, size: int = 1 << 20, limits: Limits = LIMITS) -> bytes:
    return b"".join(inflate.inflate(pieces(data, size), limits))


STREAMS = {
    "gzip": (gzip.compress(PLAIN), PLAIN),
    "gzip members": (gzip.compress(PLAIN) + gzip.compress(b"") + gzip.compress(PLAIN), PLAIN * 2),
    "gzip padded": (gzip.compress(PLAIN) + bytes(1024), PLAIN),
    "zstd": (zstd.compress(PLAIN), PLAIN),
    "zstd frames": (zstd.compress(PLAIN) + SKIPPABLE + zstd.compress(PLAIN), PLAIN * 2),
    "zstd skippable first": (SKIPPABLE + zstd.compress(PLAIN) + SKIPPABLE, PLAIN),
    "plain": (PLAIN, PLAIN),
    "nothing": (b"", b""),
    "short": (b"ab", b"ab"),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 7, 511, 1 << 20])
def test_streams_survive_any_split(name: str, size: int) -> None:
    data, plain = STREAMS[name]
    assert run(data, size) == plain


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(PLAIN)[:-1],
        gzip.compress(PLAIN)[:100],
        gzip.compress(PLAIN)[:-8] + b"\0" * 8,
        gzip.compress(PLAIN) + b"garbage",
        zstd.compress(PLAIN)[:-1],
        zstd.compress(PLAIN) + b"garbage",
        b"\x1f\x8b" + b"\xff" * 50,
        b"\x28\xb5\x2f\xfd" + b"\xff" * 50,
    ],
    ids=["cut", "cut early", "crc", "trailing", "zstd cut", "zstd trailing", "not gzip", "not zstd"],
)
def test_damage_is_noticed(data: bytes, size: int) -> None:
    with pytest.raises(inflate.BadCompression):
        run(data, size)


def test_output_comes_in_bounded_pieces() -> None:
    data = gzip.compress(bytes(20 << 20))
    assert max(len(piece) for piece in inflate.inflate([data], LIMITS)) <= inflate.OUTPUT


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_bombs_are_cut_off(compress: object) -> None:
    assert callable(compress)
    data = compress(bytes(8 << 20))
    with pytest.raises(inflate.Bomb, match="inflates to more than"):
        run(data, limits=Limits(layer_bytes=1 << 20, layer_inodes=1, ratio=1 << 30))
    with pytest.raises(inflate.Bomb, match="over 100:1"):
        run(data, limits=Limits(layer_bytes=1 << 40, layer_inodes=1, ratio=100, ratio_from=1 << 20))
    assert len(run(data, limits=Limits(layer_bytes=1 << 40, layer_inodes=1, ratio=100))) == 8 << 20
