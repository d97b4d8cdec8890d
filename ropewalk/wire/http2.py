"""HTTP/2 (RFC 9113), the server's side of a connection, as far as gRPC needs it: requests that are read whole, answers
of headers, data and trailers. Nothing is pushed, priorities are ignored.

`FrameReader` is fed bytes and never sees a socket; `Connection` is an asyncio protocol around it. A peer that breaks a
rule loses the connection; one that breaks a rule of one stream loses that stream.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import struct
from collections.abc import Callable
from typing import NamedTuple

from ropewalk.wire import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_SIZE = 16384  # SETTINGS_MAX_FRAME_SIZE's default, which we do not change
WINDOW = 65535  # SETTINGS_INITIAL_WINDOW_SIZE's default
LARGEST_WINDOW = (1 << 31) - 1
RECEIVE_WINDOW = 64 << 20  # of a connection; bytes that the peer may send before it hears from us
REPLENISH = 1 << 20  # bytes after which it hears
MAX_STREAMS = 1000  # at a time
MAX_HEADERS = 64 << 10  # bytes of a header block

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20  # flags

_HEADER = struct.Struct(">IBI")  # length and type, flags, stream
_SETTING = struct.Struct(">HI")
_LONG = struct.Struct(">I")

log = logging.getLogger(__name__)


class Kind(enum.IntEnum):
    """Types of frames (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(enum.IntEnum):
    """Errors (section 7), those in use."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(enum.IntEnum):
    """Settings (section 6.5.2), those in use."""

    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ProtocolError(Exception):
    """The connection is of no more use."""

    def __init__(self, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
        self.code = code
        super().__init__(text)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    data: bytes


def encode(kind: Kind, stream: int, data: bytes = b"", flags: int = 0) -> bytes:
    """One frame."""
    return _HEADER.pack(len(data) << 8 | kind, flags, stream) + data


class FrameReader:
    """Frames out of a stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. ProtocolError as soon as a header says more than a frame may hold."""
        buffer = self._buffer + data if self._buffer else data
        frames = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            word, flags, stream = _HEADER.unpack_from(buffer, start)
            size = word >> 8
            if size > FRAME_SIZE:
                raise ProtocolError(f"a frame of {size} bytes; {FRAME_SIZE} are allowed", Code.FRAME_SIZE_ERROR)
            end = start + _HEADER.size + size
            if end > len(buffer):
                break
            frames.append(Frame(word & 0xFF, flags, stream & LARGEST_WINDOW, buffer[start + _HEADER.size : end]))
            start = end
        self._buffer = buffer[start:]
        return frames


def unpadded(frame: Frame) -> bytes:
    """The data of a HEADERS or DATA frame."""
    if not frame.flags & PADDED:
        return frame.data
    if not frame.data or frame.data[0] >= len(frame.data):
        raise ProtocolError("more padding than there is data")
    return frame.data[1 : len(frame.data) - frame.data[0]]


class Stream:
    """A request, and the way back. `whole`: the peer has sent all of it; `overflowed`: it was more than it may be, and
    is not here. `begun`: the answer's headers are sent. `gone` is called when the peer, or the connection, has left."""

    def __init__(self, connection: Connection, id: int, headers: dict[bytes, bytes], window: int) -> None:
        self.id = id
        self.headers = headers
        self.body = bytearray()
        self.whole = False
        self.overflowed = False
        self.begun = False
        self.window = window
        self.gone: Callable[[], object] = bool
        self._connection = connection

    async def send(self, head: bytes, data: bytes, trailers: bytes | None = None) -> None:
        """Header block, data, and, at the end, another header block; each may be empty, None is no end. Waits for
        the peer to make room."""
        connection = self._connection
        if connection.streams.get(self.id) is not self:  # the peer has left it
            return
        self.begun |= bool(head)
        if not connection.has_room(self, len(data)):
            if head:
                connection.write(encode(Kind.HEADERS, self.id, head, END_HEADERS))
            data, head = await connection.send_slowly(self, data), b""
        frames = [encode(Kind.HEADERS, self.id, head, END_HEADERS)] if head else []
        if data:
            connection.take_room(self, len(data))
            frames.append(encode(Kind.DATA, self.id, data))
        if trailers is not None:
            frames.append(encode(Kind.HEADERS, self.id, trailers, END_HEADERS | END_STREAM))
            frames += connection.finish(self)
        connection.write(b"".join(frames))


class Connection(asyncio.Protocol):
    """One peer. `requested` is called with each stream when its request is whole, or too large: more than `limit` bytes
    of data; `lost` at the end."""

    def __init__(self, requested: Callable[[Stream], None], lost: Callable[[Connection], None], *, limit: int) -> None:
        self.streams: dict[int, Stream] = {}
        self._requested = requested
        self._lost = lost
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._decoder = hpack.Decoder()
        self._preface = b""
        self._block: tuple[Frame, bytearray] | None = None  # HEADERS that go on in CONTINUATION frames
        self._last = 0  # the highest stream that the peer has begun
        self._leaving = False
        self._received = 0
        self._window = WINDOW
        self._stream_window = WINDOW
        self._frame_size = FRAME_SIZE
        self._paused = False
        self._waiting: list[asyncio.Future[None]] = []
        self._takers: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._take_data,
            Kind.HEADERS: self._take_headers,
            Kind.RST_STREAM: self._take_reset,
            Kind.SETTINGS: self._take_settings,
            Kind.PUSH_PROMISE: self._refuse,
            Kind.PING: self._take_ping,
            Kind.WINDOW_UPDATE: self._take_window,
            Kind.CONTINUATION: self._refuse,
        }

    # Sending.

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    def has_room(self, stream: Stream, size: int) -> bool:
        """Whether so much data can go in one frame, now. Nothing, before trailers, always can."""
        return not size or (not self._paused and size <= min(self._window, stream.window, self._frame_size))

    def take_room(self, stream: Stream, size: int) -> None:
        self._window -= size
        stream.window -= size

    async def send_slowly(self, stream: Stream, data: bytes) -> bytes:
        """As many frames as needed; what is left has room in one."""
        left = memoryview(data)
        while not self.has_room(stream, len(left)):
            size = 0 if self._paused else min(self._window, stream.window, self._frame_size, len(left))
            if size > 0:
                self.take_room(stream, size)
                self.write(encode(Kind.DATA, stream.id, bytes(left[:size])))
                left = left[size:]
                continue
            room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            await room
        return bytes(left)

    def finish(self, stream: Stream) -> list[bytes]:
        """The stream has been answered. A peer that is still sending is told that nobody listens (8.1)."""
        self.streams.pop(stream.id, None)
        return [] if stream.whole else [_reset(stream.id, Code.NO_ERROR)]

    def leave(self) -> None:
        """No new streams; the peer goes elsewhere with its next requests."""
        if not self._leaving:
            self._leaving = True
            self.write(_goaway(self._last, Code.NO_ERROR))

    def close(self) -> None:
        """What is written still goes out."""
        if self._transport is not None:
            self._transport.close()

    def _wake(self) -> None:
        """There may be room now."""
        waiting, self._waiting = self._waiting, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    # The connection.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            Setting.INITIAL_WINDOW_SIZE: self._limit + FRAME_SIZE,
            Setting.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
        }
        said = b"".join(_SETTING.pack(name, value) for name, value in settings.items())
        self.write(encode(Kind.SETTINGS, 0, said) + _window_update(RECEIVE_WINDOW - WINDOW))

    def connection_lost(self, error: Exception | None) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.gone()
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data if self._preface == PREFACE else self._greet(data)):
                self._take(frame)
        except (ProtocolError, hpack.HpackError) as error:
            code = error.code if isinstance(error, ProtocolError) else Code.COMPRESSION_ERROR
            log.warning("a client was cut off", extra={"error": str(error), "http2": code.name})
            self.write(_goaway(self._last, code))
            self.close()

    def _greet(self, data: bytes) -> bytes:
        """What comes after the preface."""
        missing = len(PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not PREFACE.startswith(self._preface):
            raise ProtocolError("it does not speak HTTP/2")
        return data[missing:]

    def _take(self, frame: Frame) -> None:
        if self._block is not None:
            self._take_continuation(frame, *self._block)
        elif taker := self._takers.get(frame.kind):
            taker(frame)

    def _refuse(self, frame: Frame) -> None:
        raise ProtocolError(f"a frame of type {frame.kind} where there may be none")

    def _take_settings(self, frame: Frame) -> None:
        if frame.flags & ACK:
            return
        if frame.stream or len(frame.data) % _SETTING.size:
            raise ProtocolError("settings that are cut, or a stream's", Code.FRAME_SIZE_ERROR)
        for name, value in _SETTING.iter_unpack(frame.data):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    raise ProtocolError("a window that is too large", Code.FLOW_CONTROL_ERROR)
                for stream in self.streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == Setting.MAX_FRAME_SIZE and value >= FRAME_SIZE:
                self._frame_size = value
        self.write(encode(Kind.SETTINGS, 0, flags=ACK))
        self._wake()

    def _take_ping(self, frame: Frame) -> None:
        if len(frame.data) != 8:
            raise ProtocolError("a ping has eight bytes", Code.FRAME_SIZE_ERROR)
        if not frame.flags & ACK:
            self.write(encode(Kind.PING, 0, frame.data, ACK))

    def _take_window(self, frame: Frame) -> None:
        if len(frame.data) != _LONG.size:
            raise ProtocolError("a window update has four bytes", Code.FRAME_SIZE_ERROR)
        more = _LONG.unpack(frame.data)[0] & LARGEST_WINDOW
        stream = self.streams.get(frame.stream)
        if not more:
            raise ProtocolError("a window update of nothing")
        if not frame.stream:
            self._window += more
        elif stream is not None:
            stream.window += more
        if max(self._window, stream.window if stream is not None else 0) > LARGEST_WINDOW:
            raise ProtocolError("a window that is too large", Code.FLOW_CONTROL_ERROR)
        self._wake()

    # Requests.

    def _take_headers(self, frame: Frame) -> None:
        if frame.stream % 2 == 0:
            raise ProtocolError(f"headers on stream {frame.stream}")
        block = unpadded(frame)
        if frame.flags & PRIORITIZED:
            block = block[5:]
        if frame.flags & END_HEADERS:
            self._take_block(frame, block)
        else:
            self._block = (frame, bytearray(block))

    def _take_continuation(self, frame: Frame, first: Frame, block: bytearray) -> None:
        if frame.kind != Kind.CONTINUATION or frame.stream != first.stream:
            raise ProtocolError("headers that do not go on")
        block += frame.data
        if len(block) > MAX_HEADERS:
            raise ProtocolError(f"headers of more than {MAX_HEADERS} bytes", Code.ENHANCE_YOUR_CALM)
        if frame.flags & END_HEADERS:
            self._block = None
            self._take_block(first, bytes(block))

    def _take_block(self, frame: Frame, block: bytes) -> None:
        """Read it in any case: the table of the decoder is the connection's."""
        headers = dict(self._decoder.decode(block))
        stream = self.streams.get(frame.stream)
        if stream is not None:  # trailers, which say nothing to gRPC's server
            if not frame.flags & END_STREAM:
                raise ProtocolError("headers within a request")
            self._end(stream)
            return
        if frame.stream <= self._last:
            return  # one that we have reset, or answered
        self._last = frame.stream
        if self._leaving or len(self.streams) >= MAX_STREAMS:
            self.write(_reset(frame.stream, Code.REFUSED_STREAM))
            return
        stream = self.streams[frame.stream] = Stream(self, frame.stream, headers, self._stream_window)
        if frame.flags & END_STREAM:
            self._end(stream)

    def _take_data(self, frame: Frame) -> None:
        self._received += len(frame.data)
        if self._received >= REPLENISH:
            self.write(_window_update(self._received))
            self._received = 0
        stream = self.streams.get(frame.stream)
        if stream is None:
            if frame.stream > self._last or not frame.stream:
                raise ProtocolError(f"data on stream {frame.stream}, which has not begun")
            return  # one that we have reset, or answered
        if stream.whole:
            del self.streams[stream.id]
            self.write(_reset(stream.id, Code.STREAM_CLOSED))
            stream.gone()
            return
        if stream.overflowed:
            stream.whole = bool(frame.flags & END_STREAM)
            return
        stream.body += unpadded(frame)
        if len(stream.body) > self._limit:
            stream.body.clear()
            stream.overflowed = True
            stream.whole = bool(frame.flags & END_STREAM)
            self._requested(stream)
        elif frame.flags & END_STREAM:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        if stream.whole:
            raise ProtocolError(f"stream {stream.id} ends twice", Code.STREAM_CLOSED)
        stream.whole = True
        if not stream.overflowed:
            self._requested(stream)

    def _take_reset(self, frame: Frame) -> None:
        if not frame.stream or frame.stream > self._last:
            raise ProtocolError(f"a reset of stream {frame.stream}, which has not begun")
        stream = self.streams.pop(frame.stream, None)
        if stream is not None:
            stream.gone()


def _reset(stream: int, code: Code) -> bytes:
    return encode(Kind.RST_STREAM, stream, _LONG.pack(code))


def _goaway(last: int, code: Code) -> bytes:
    return encode(Kind.GOAWAY, 0, _LONG.pack(last) + _LONG.pack(code))


def _window_update(more: int) -> bytes:
    """Of the connection. A stream's window holds the largest request, so it needs no more."""
    return encode(Kind.WINDOW_UPDATE, 0, _LONG.pack(more))
