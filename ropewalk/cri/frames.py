"""Lists as bytes: each record's element of a list reply is serialised once and joined when asked.

Every list reply of the CRI, unary or streamed, has its elements in field 1, so one frame serves both. A frame is
valid as long as the record is the very object it was made from (records are frozen), and kept as long as its table
has that object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from google.protobuf.message import Message

from ropewalk.state.store import Record, Table

R = TypeVar("R", bound=Record)

LENGTH_DELIMITED = 2  # wire type of messages, strings and bytes
CHUNK = 1 << 20  # bytes of one streamed message, give or take an element


def varint(value: int) -> bytes:
    """Base 128, least significant group first (protobuf encoding, "varints")."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def field(number: int, data: bytes) -> bytes:
    """A field of a message that is itself a message, serialised already."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(data)) + data


def element(message: Message) -> bytes:
    """`message` as an element of field 1."""
    return field(1, message.SerializeToString())


def chunks(elements: Iterable[bytes]) -> Iterator[bytes]:
    """Messages of about CHUNK bytes; none for no elements."""
    held: list[bytes] = []
    size = 0
    for frame in elements:
        if held and size + len(frame) > CHUNK:
            yield b"".join(held)
            held, size = [], 0
        held.append(frame)
        size += len(frame)
    if held:
        yield b"".join(held)


class Frames(Generic[R]):
    """The frames of the records of a table."""

    def __init__(self, translate: Callable[[R], Message], table: Table[R]) -> None:
        self._translate = translate
        self._table = table
        self._frames: dict[str, tuple[R, bytes]] = {}
        table.watch(self._changed)

    def frame(self, record: R) -> bytes:
        held = self._frames.get(record.id)
        if held is not None and held[0] is record:
            return held[1]
        frame = element(self._translate(record))
        if self._table.get(record.id) is record:  # not one that went while its statistics were read
            self._frames[record.id] = (record, frame)
        return frame

    def join(self, records: Iterable[R]) -> bytes:
        """A whole list reply."""
        return b"".join(map(self.frame, records))

    def chunks(self, records: Iterable[R]) -> Iterator[bytes]:
        """The same as messages of a stream."""
        return chunks(map(self.frame, records))

    def _changed(self, old: R | None, new: R | None) -> None:
        if old is not None and new is None:
            self._frames.pop(old.id, None)
