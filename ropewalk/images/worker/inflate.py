"""Compressed pieces to plain ones: gzip (several members), zstd (several frames), or as they are.

What it is, the first bytes say: media types in registries are wrong often enough, and the diff id, which is checked
at the end, leaves no room for confusion. Output comes in bounded pieces, and its amount is bounded too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

from isal import igzip_lib

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.jobs import Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OUTPUT = 1 << 20  # most bytes of one piece
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte 0x50-0x5f (zstd format, skippable frames)
_ERRORS = (zstd.ZstdError, EOFError, cast(type[Exception], igzip_lib.error))  # a class, whatever its stub says


class BadCompression(RopewalkError):
    kind = Kind.CORRUPT


class Bomb(RopewalkError):
    kind = Kind.EXHAUSTED


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


def _new_gzip() -> _Decompressor:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)


def _new_zstd() -> _Decompressor:
    return zstd.ZstdDecompressor()


def inflate(pieces: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The plain bytes. Raises BadCompression, Bomb (amount, or ratio of output to input)."""
    compressed = plain = 0
    source = _joined_start(iter(pieces))

    def counted() -> Iterator[bytes]:
        nonlocal compressed
        for piece in source:
            compressed += len(piece)
            yield piece

    for piece in _inflate(counted()):
        plain += len(piece)
        # A tar is its files and half a block each for headers and padding: twice the bytes is generous.
        if plain > 2 * limits.layer_bytes:
            raise Bomb(f"the layer inflates to more than {2 * limits.layer_bytes} bytes")
        if plain > limits.ratio_from and plain > compressed * limits.ratio:
            raise Bomb(f"the layer inflates {compressed} bytes to more than {plain}, over {limits.ratio}:1")
        yield piece


def _joined_start(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, the first piece of at least four if there are so many."""
    start = b""
    for piece in pieces:
        start += piece
        if len(start) >= 4:
            break
    yield start
    yield from pieces


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    first = next(pieces, b"")
    if first.startswith(_GZIP):
        new = _new_gzip
    elif first.startswith(_ZSTD) or (first[1:4] == _SKIPPABLE and 0x50 <= first[0] <= 0x5F):
        new = _new_zstd
    else:
        yield first
        yield from pieces
        return
    try:
        yield from _members(first, pieces, new)
    except _ERRORS as error:
        raise BadCompression(f"the layer's compression is damaged: {error}") from error


def _members(data: bytes, pieces: Iterator[bytes], new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Member after member until the input ends. Zero bytes after the last one are padding."""
    decompressor = new()
    fresh = True  # nothing of the current member was seen
    while True:
        if data or not decompressor.needs_input:
            fresh = False
            out = decompressor.decompress(data, OUTPUT)
            data = b""
            if out:
                yield out
            if decompressor.eof:
                data = decompressor.unused_data
                decompressor, fresh = new(), True
                if not data.strip(b"\0"):
                    data = b""
            continue
        data = next(pieces, b"")
        if not data:
            break
        if fresh and not data.strip(b"\0"):
            data = b""
    if not fresh:
        raise EOFError("the end is missing")
