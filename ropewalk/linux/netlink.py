"""Netlink: the codec of messages and attributes, and a socket that sends a batch and collects its answers.

Formats: netlink(7), include/uapi/linux/netlink.h. All integers are in the machine's byte order, every part is padded
to four bytes. What the messages of the route family say is rtnetlink.py's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

ROUTE = 0  # NETLINK_ROUTE
NETFILTER = 12  # NETLINK_NETFILTER

REQUEST, ACK = 0x1, 0x4  # NLM_F_*
DUMP = 0x300
EXCL, CREATE = 0x200, 0x400
REPLACE = 0x100
DUMP_INTERRUPTED = 0x10

_ERROR, _DONE = 2, 3  # NLMSG_*
_CAPPED, _TLVS = 0x100, 0x200  # in the flags of an answer to a failed request
_MESSAGE_TEXT = 1  # NLMSGERR_ATTR_MSG
_NESTED = 0x8000  # NLA_F_NESTED
_TYPE_MASK = 0x3FFF

_SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK, _STRICT_CHECK = 10, 11, 12  # NETLINK_*, socket options
_BUFFER = 1 << 16  # the kernel fills at most 32 KiB for one read of a dump
_BATCH = 64  # requests sent at once: a socket's buffers hold about 270 answers, whatever their size, and 208 KiB
_DUMP_TRIES = 5
_KERNEL = 0  # its port
_WRAP = 1 << 31  # sequence numbers stay below 32 bits

_HEADER = struct.Struct("=LHHLL")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_INT = struct.Struct("=i")


class NetlinkError(OSError):
    """The kernel refused a request: errno, and the kernel's own words where it has some."""


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = len(payload) + 4
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size & 3)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return _ATTRIBUTE.pack(8, kind) + value.to_bytes(4, sys.byteorder)


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, bytes((value,)))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes in `data` from `offset`, by type; of a repeated type the last. A cut tail is ignored, as the
    kernel does (nla_parse)."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + size]
        offset += size + 3 & ~3
    return found


def message(kind: int, body: bytes, *, flags: int = 0) -> bytes:
    """A request. The sequence number is filled in when it is sent."""
    return _HEADER.pack(16 + len(body), kind, flags | REQUEST, 0, 0) + body


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in one datagram: type, flags, sequence, body."""
    offset = 0
    while offset + 16 <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < 16 or offset + size > len(data):
            raise NetlinkError(errno.EPROTO, f"netlink message of {size} bytes at {offset} of {len(data)}")
        yield kind, flags, sequence, data[offset + 16 : offset + size]
        offset += size + 3 & ~3


def failure(flags: int, body: bytes) -> NetlinkError | None:
    """What an NLMSG_ERROR says; None for success."""
    (code,) = _INT.unpack_from(body)
    if code == 0:
        return None
    words = os.strerror(-code)
    if flags & _TLVS:
        (size,) = struct.unpack_from("=L", body, 4)
        start = 20 if flags & _CAPPED else 4 + size  # the request's header, or all of it, comes before the words
        said = attributes(body, start).get(_MESSAGE_TEXT)
        if said:
            words = f"{words} ({said.rstrip(bytes(1)).decode(errors='replace')})"
    return NetlinkError(-code, words)


class Socket:
    """A netlink socket of the network namespace that the calling thread is in; any thread may use it, one at a time."""

    def __init__(self, family: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)  # close-on-exec (PEP 446)
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK) + ((_STRICT_CHECK,) if family == ROUTE else ()):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, requests: Sequence[bytes]) -> list[NetlinkError | None]:
        """Send all requests, as many at once as their answers have room; each one's outcome, in their order. Requests
        are independent: the kernel goes on after one that failed."""
        outcome: list[NetlinkError | None] = []
        for start in range(0, len(requests), _BATCH):
            outcome += self._change(requests[start : start + _BATCH])
        return outcome

    def _change(self, requests: Sequence[bytes]) -> list[NetlinkError | None]:
        first = self._send(requests, ACK)
        outcome: list[NetlinkError | None] = [None] * len(requests)
        waiting = len(requests)
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind == _ERROR and 0 <= sequence - first < len(requests):
                    outcome[sequence - first] = failure(flags, body)
                    waiting -= 1
        return outcome

    def apply(self, requests: Sequence[bytes]) -> None:
        """Like `change`; raises the first failure."""
        for error in self.change(requests):
            if error is not None:
                raise error

    def get(self, request: bytes) -> bytes:
        """The body of the object that the request asks for; raises if there is none."""
        expected = self._send([request], ACK)
        found = b""
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != expected:
                    continue
                if kind != _ERROR:
                    found = body
                elif (error := failure(flags, body)) is not None:
                    raise error
                else:
                    return found

    def dump(self, request: bytes) -> list[tuple[int, bytes]]:
        """All objects that the request asks for: type and body of each. Retried when the kernel says that the list
        changed meanwhile (NLM_F_DUMP_INTR)."""
        for _ in range(_DUMP_TRIES):
            found, interrupted = self._dump(request)
            if not interrupted:
                return found
        return found  # complete enough: what existed all the time is in it

    def _dump(self, request: bytes) -> tuple[list[tuple[int, bytes]], bool]:
        expected = self._send([request], DUMP)
        found: list[tuple[int, bytes]] = []
        interrupted = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != expected:
                    continue  # left over from a request that was given up
                interrupted |= bool(flags & DUMP_INTERRUPTED)
                if kind not in (_ERROR, _DONE):
                    found.append((kind, body))
                    continue
                if len(body) >= 4 and (error := failure(flags, body)) is not None:
                    raise error
                return found, interrupted

    def _send(self, requests: Sequence[bytes], flags: int) -> int:
        """Number and send the requests; the first one's number."""
        first = self._sequence % _WRAP + 1
        buffer = bytearray()
        for number, request in enumerate(requests, first):
            start = len(buffer)
            buffer += request
            size, kind, given, _, _ = _HEADER.unpack_from(request)
            _HEADER.pack_into(buffer, start, size, kind, given | flags, number, 0)
            buffer += b"\0" * (-size & 3)
        self._sequence = first + len(requests) - 1
        self._socket.send(buffer)
        return first

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """One datagram of the kernel's. Others may send here too: whoever administers the namespace, so a pod."""
        sender = -1
        while sender != _KERNEL:
            data, _, flags, (sender, _) = self._socket.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise NetlinkError(errno.EMSGSIZE, f"netlink answer of more than {_BUFFER} bytes")
        return split(data)
