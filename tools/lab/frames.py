"""What host and guest say to each other: frames on a byte stream that either side may have joined in the middle.

A frame is a kind, a stream number and a payload. The host opens streams (EXEC, CONNECT), the guest ends them (EXIT,
CLOSED). Both sides look for a HELLO first: its header is the mark in a stream that may begin with somebody else's rest.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

HEADER = struct.Struct("!BII")  # kind, stream, length of the payload
MAX_PAYLOAD = 1 << 16
GREETING = 0x726F7065  # the stream number of HELLO
NONCE_BYTES = 16


class Kind(enum.IntEnum):
    HELLO = 1  # host: a nonce; guest: the nonce, and the boot id as text
    EXEC = 2  # host: JSON {argv, env, cwd, tty: [rows, columns] or null}
    CONNECT = 3  # host: path of a unix socket in the guest
    DATA = 4  # host: standard input, or to the socket; empty: its end. Guest: from the socket; empty: its end
    TAKEN = 5  # guest: that DATA has been passed on (the next may come)
    STDOUT = 6
    STDERR = 7
    SIGNAL = 8  # host: the number as text, for the process group
    RESIZE = 9  # host: JSON [rows, columns]
    EXIT = 10  # guest: JSON {code} or {error}; nothing follows on this stream


class Frame(NamedTuple):
    kind: int
    stream: int
    payload: bytes = b""


def encode(kind: Kind, stream: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, stream, len(payload)) + payload


class Reader:
    """Bytes in, whole frames out. What does not look like a frame is skipped up to the next HELLO."""

    def __init__(self, hello_bytes: int) -> None:
        """`hello_bytes`: how long the other side's HELLO payload is."""
        self._mark = HEADER.pack(Kind.HELLO, GREETING, hello_bytes)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the other side is another one."""
        self._buffer = bytearray()
        self._in_step = False

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        while True:
            if not self._in_step and not self._find_mark():
                return None
            if len(self._buffer) < HEADER.size:
                return None
            kind, stream, length = HEADER.unpack_from(self._buffer)
            if kind not in Kind.__members__.values() or length > MAX_PAYLOAD:
                del self._buffer[0]
                self._in_step = False
                continue
            end = HEADER.size + length
            if len(self._buffer) < end:
                return None
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            return Frame(kind, stream, payload)

    def _find_mark(self) -> bool:
        at = self._buffer.find(self._mark)
        if at < 0:
            del self._buffer[: max(0, len(self._buffer) - len(self._mark) + 1)]
            return False
        del self._buffer[:at]
        self._in_step = True
        return True
