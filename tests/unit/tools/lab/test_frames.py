"""The lab VM's frames: whole however they are cut, and found again after somebody else's rest."""

from __future__ import annotations

import os

import pytest

from tools.lab import frames
from tools.lab.frames import Frame, Kind

NONCE = b"n" * frames.NONCE_BYTES
HELLO = Frame(Kind.HELLO, frames.GREETING, NONCE)
SENT = [HELLO, Frame(Kind.EXEC, 1, b'{"argv": []}'), Frame(Kind.DATA, 1), Frame(Kind.STDOUT, 2, bytes(range(256)))]


def encoded(sent: list[Frame]) -> bytes:
    return b"".join(frames.encode(Kind(frame.kind), frame.stream, frame.payload) for frame in sent)


def test_frames_survive_any_cut() -> None:
    stream = encoded(SENT)
    for cut in range(len(stream)):
        reader = frames.Reader(frames.NONCE_BYTES)
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == SENT


@pytest.mark.parametrize("rest", [b"\0", b"x" * 5000, encoded(SENT)[7:], encoded(SENT)[-100:], encoded([HELLO])[:9]])
def test_what_comes_before_hello_is_skipped(rest: bytes) -> None:
    """A rest that itself looks like the beginning of a HELLO costs that one; the host greets again."""
    reader = frames.Reader(frames.NONCE_BYTES)
    read = reader.feed(rest + encoded([HELLO]) + encoded(SENT) + encoded(SENT))
    assert read[-len(SENT) :] == SENT


def test_another_sides_bytes_in_the_middle_end_with_the_next_hello() -> None:
    reader = frames.Reader(frames.NONCE_BYTES)
    assert reader.feed(encoded(SENT)) == SENT
    assert reader.feed(b"\xff" * 40 + os.urandom(9).replace(b"\x01", b"\x02")) == []
    assert reader.feed(encoded(SENT)) == SENT


def test_a_reset_reader_waits_for_hello() -> None:
    reader = frames.Reader(frames.NONCE_BYTES)
    reader.feed(encoded(SENT))
    reader.reset()
    assert reader.feed(encoded(SENT[1:])) == []
    assert reader.feed(encoded(SENT)) == SENT
