"""A connection, spoken to frame by frame: requests however they are cut, room for answers, broken rules."""

from __future__ import annotations

import asyncio
import struct

import pytest

from ropewalk.wire import hpack, http2
from ropewalk.wire.http2 import ACK, END_HEADERS, END_STREAM, PADDED, PRIORITIZED, Code, Frame, Kind

HEADERS = [(b":method", b"POST"), (b":path", b"/a.B/C")]
BLOCK = hpack.encode(HEADERS)
LIMIT = 100_000
HEAD, TAIL = hpack.encode([(b":status", b"200")]), hpack.encode([(b"grpc-status", b"0")])


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Peer:
    """Both ends of one connection; `requests` are the streams that were handed over."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.requests: list[http2.Stream] = []
        self.lost: list[http2.Connection] = []
        self.connection = http2.Connection(self.requests.append, self.lost.append, limit=LIMIT)
        self.connection.connection_made(self.transport)
        self._reader = http2.FrameReader()

    def say(self, kind: Kind, stream: int = 0, data: bytes = b"", flags: int = 0) -> None:
        self.connection.data_received(http2.encode(kind, stream, data, flags))

    def ask(self, stream: int = 1, data: bytes = b"abc") -> http2.Stream:
        self.say(Kind.HEADERS, stream, BLOCK, END_HEADERS)
        self.say(Kind.DATA, stream, data, END_STREAM)
        return self.requests[-1]

    def heard(self) -> list[Frame]:
        """What came since the last time."""
        frames = self._reader.feed(self.transport.sent)
        self.transport.sent = b""
        return frames

    def data(self) -> bytes:
        return b"".join(frame.data for frame in self.heard() if frame.kind == Kind.DATA)


@pytest.fixture
def peer() -> Peer:
    made = Peer()
    made.connection.data_received(http2.PREFACE)
    made.say(Kind.SETTINGS)
    assert [frame.kind for frame in made.heard()] == [Kind.SETTINGS, Kind.WINDOW_UPDATE, Kind.SETTINGS]
    return made


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def test_a_request_may_be_cut_anywhere() -> None:
    whole = (
        http2.PREFACE
        + http2.encode(Kind.SETTINGS, 0)
        + http2.encode(Kind.HEADERS, 1, BLOCK, END_HEADERS)
        + http2.encode(Kind.DATA, 1, b"ab")
        + http2.encode(Kind.DATA, 1, b"c", END_STREAM)
    )
    for cut in range(len(whole)):
        peer = Peer()
        peer.connection.data_received(whole[:cut])
        assert not peer.requests
        peer.connection.data_received(whole[cut:])
        (stream,) = peer.requests
        assert (stream.headers, bytes(stream.body), stream.whole) == (dict(HEADERS), b"abc", True)


def test_padding_and_priority_are_no_part_of_a_request(peer: Peer) -> None:
    padded = b"\x03" + bytes(5) + BLOCK + bytes(3)
    peer.say(Kind.HEADERS, 1, padded, END_HEADERS | PADDED | PRIORITIZED)
    peer.say(Kind.PRIORITY, 1, bytes(5))
    peer.say(Kind.DATA, 1, b"\x02abc" + bytes(2), PADDED | END_STREAM)
    (stream,) = peer.requests
    assert (stream.headers, bytes(stream.body)) == (dict(HEADERS), b"abc")


def test_headers_may_go_on_in_further_frames(peer: Peer) -> None:
    peer.say(Kind.HEADERS, 1, BLOCK[:3], END_STREAM)
    peer.say(Kind.CONTINUATION, 1, BLOCK[3:9])
    peer.say(Kind.CONTINUATION, 1, BLOCK[9:], END_HEADERS)
    assert peer.requests[0].headers == dict(HEADERS)


def test_trailers_and_unknown_frames_say_nothing(peer: Peer) -> None:
    peer.say(Kind.HEADERS, 1, BLOCK, END_HEADERS)
    peer.connection.data_received(struct.pack(">IBI", 2 << 8 | 77, 0, 1) + b"??")
    peer.say(Kind.DATA, 1, b"abc")
    peer.say(Kind.HEADERS, 1, hpack.encode([(b"x", b"y")]), END_HEADERS | END_STREAM)
    assert (peer.requests[0].headers, bytes(peer.requests[0].body)) == (dict(HEADERS), b"abc")


def test_pings_are_answered(peer: Peer) -> None:
    peer.say(Kind.PING, 0, b"12345678")
    peer.say(Kind.PING, 0, b"87654321", ACK)
    assert peer.heard() == [Frame(Kind.PING, ACK, 0, b"12345678")]


async def test_a_short_answer_is_one_write(peer: Peer) -> None:
    stream = peer.ask()
    await stream.send(HEAD, b"answer", TAIL)
    assert peer.heard() == [
        Frame(Kind.HEADERS, END_HEADERS, 1, HEAD),
        Frame(Kind.DATA, 0, 1, b"answer"),
        Frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, TAIL),
    ]
    assert not peer.connection.streams


async def test_an_answer_waits_for_room_in_the_stream_and_in_the_connection(peer: Peer) -> None:
    peer.say(Kind.SETTINGS, 0, setting(http2.Setting.INITIAL_WINDOW_SIZE, 10))
    stream = peer.ask()
    answer = bytes(range(256)) * 300  # 76800, more than the connection's window
    sending = asyncio.ensure_future(stream.send(HEAD, answer, TAIL))
    await asyncio.sleep(0)
    got = peer.data()
    assert len(got) == 10
    peer.say(Kind.WINDOW_UPDATE, 1, number(5))
    await asyncio.sleep(0)
    got += peer.data()
    assert len(got) == 15
    peer.say(Kind.SETTINGS, 0, setting(http2.Setting.INITIAL_WINDOW_SIZE, 100_000))
    await asyncio.sleep(0)
    got += peer.data()
    assert len(got) == http2.WINDOW
    peer.say(Kind.WINDOW_UPDATE, 0, number(100_000))
    await sending
    frames = peer.heard()
    assert got + b"".join(frame.data for frame in frames[:-1]) == answer
    assert frames[-1] == Frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, TAIL)


async def test_frames_are_as_large_as_the_peer_takes_them(peer: Peer) -> None:
    await peer.ask().send(HEAD, bytes(40_000), TAIL)
    assert max(len(frame.data) for frame in peer.heard()) == http2.FRAME_SIZE
    peer.say(Kind.WINDOW_UPDATE, 0, number(40_000))
    peer.say(Kind.SETTINGS, 0, setting(http2.Setting.MAX_FRAME_SIZE, 1 << 20))
    await peer.ask(3).send(HEAD, bytes(40_000), TAIL)
    assert http2.encode(Kind.DATA, 3, bytes(40_000)) in peer.transport.sent


async def test_an_answer_waits_for_a_peer_that_does_not_read(peer: Peer) -> None:
    stream = peer.ask()
    peer.connection.pause_writing()
    sending = asyncio.ensure_future(stream.send(HEAD, b"answer", TAIL))
    await asyncio.sleep(0)
    assert peer.data() == b""
    peer.connection.resume_writing()
    await sending
    assert peer.data() == b"answer"


@pytest.mark.parametrize("leaves", ["reset", "lost"])
async def test_a_request_whose_peer_has_left_is_told_so_and_says_nothing(peer: Peer, leaves: str) -> None:
    stream = peer.ask()
    gone: list[bool] = []
    stream.gone = lambda: gone.append(True)
    if leaves == "reset":
        peer.say(Kind.RST_STREAM, 1, number(8))
    else:
        peer.connection.connection_lost(None)
        assert peer.lost == [peer.connection]
    assert gone == [True]
    await stream.send(HEAD, b"answer", TAIL)
    assert peer.heard() == []


async def test_a_request_that_is_too_large_is_handed_over_without_its_data(peer: Peer) -> None:
    peer.say(Kind.HEADERS, 1, BLOCK, END_HEADERS)
    for _ in range(LIMIT // 16_000 + 1):
        peer.say(Kind.DATA, 1, bytes(16_000))
    (stream,) = peer.requests
    assert (stream.overflowed, stream.whole, bytes(stream.body)) == (True, False, b"")
    await stream.send(b"", b"", TAIL)
    assert [(frame.kind, frame.data) for frame in peer.heard()][1:] == [(Kind.RST_STREAM, number(Code.NO_ERROR))]
    peer.say(Kind.DATA, 1, b"more", END_STREAM)  # was under way
    assert len(peer.requests) == 1


def test_the_connections_window_is_opened_again(peer: Peer) -> None:
    for stream in range(1, 2 * (http2.REPLENISH // 16_000) + 3, 2):
        peer.say(Kind.HEADERS, stream, BLOCK, END_HEADERS)
        peer.say(Kind.DATA, stream, bytes(16_000))
    (update,) = peer.heard()
    assert (update.kind, update.stream) == (Kind.WINDOW_UPDATE, 0)
    assert http2.REPLENISH <= int.from_bytes(update.data, "big") < http2.REPLENISH + 16_000


def test_too_many_requests_and_those_after_the_end_are_refused(peer: Peer) -> None:
    for stream in range(1, 2 * http2.MAX_STREAMS, 2):
        peer.ask(stream)
    assert peer.heard() == []
    late = 2 * http2.MAX_STREAMS + 1
    peer.say(Kind.HEADERS, late, BLOCK, END_HEADERS | END_STREAM)
    assert peer.heard() == [Frame(Kind.RST_STREAM, 0, late, number(Code.REFUSED_STREAM))]
    peer.connection.streams.clear()
    peer.connection.leave()
    peer.say(Kind.HEADERS, late + 2, BLOCK, END_HEADERS | END_STREAM)
    goaway, reset = peer.heard()
    assert (goaway.kind, goaway.data[:4]) == (Kind.GOAWAY, number(late))
    assert reset == Frame(Kind.RST_STREAM, 0, late + 2, number(Code.REFUSED_STREAM))


BROKEN = {
    "even stream": (http2.encode(Kind.HEADERS, 2, BLOCK, END_HEADERS), Code.PROTOCOL_ERROR),
    "headers that never were": (http2.encode(Kind.HEADERS, 1, b"\x80", END_HEADERS), Code.COMPRESSION_ERROR),
    "too much padding": (http2.encode(Kind.HEADERS, 1, b"\x05abc", END_HEADERS | PADDED), Code.PROTOCOL_ERROR),
    "interrupted": (http2.encode(Kind.HEADERS, 1, BLOCK) + http2.encode(Kind.PING, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "endless headers": (
        http2.encode(Kind.HEADERS, 1, BLOCK) + http2.encode(Kind.CONTINUATION, 1, bytes(16_000)) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    "continued nothing": (http2.encode(Kind.CONTINUATION, 1, BLOCK, END_HEADERS), Code.PROTOCOL_ERROR),
    "data on nothing": (http2.encode(Kind.DATA, 1, b"abc"), Code.PROTOCOL_ERROR),
    "reset of nothing": (http2.encode(Kind.RST_STREAM, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "push": (http2.encode(Kind.PUSH_PROMISE, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "large frame": (http2.encode(Kind.DATA, 1, bytes(http2.FRAME_SIZE + 1)), Code.FRAME_SIZE_ERROR),
    "short ping": (http2.encode(Kind.PING, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "short settings": (http2.encode(Kind.SETTINGS, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "large window": (
        http2.encode(Kind.SETTINGS, 0, setting(http2.Setting.INITIAL_WINDOW_SIZE, 1 << 31)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "no window": (http2.encode(Kind.WINDOW_UPDATE, 0, bytes(4)), Code.PROTOCOL_ERROR),
    "window too large": (
        http2.encode(Kind.WINDOW_UPDATE, 0, number(http2.LARGEST_WINDOW)),
        Code.FLOW_CONTROL_ERROR,
    ),
    "headers within": (http2.encode(Kind.HEADERS, 1, BLOCK, END_HEADERS) * 2, Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", BROKEN)
def test_who_breaks_the_rules_is_cut_off(peer: Peer, name: str) -> None:
    sent, code = BROKEN[name]
    peer.connection.data_received(sent)
    assert peer.transport.closed
    last = peer.heard()[-1]
    assert (last.kind, last.data[4:8]) == (Kind.GOAWAY, number(code))


def test_data_after_the_end_ends_the_stream_only(peer: Peer) -> None:
    stream = peer.ask()
    gone: list[bool] = []
    stream.gone = lambda: gone.append(True)
    peer.say(Kind.DATA, 1, b"more")
    assert peer.heard() == [Frame(Kind.RST_STREAM, 0, 1, number(Code.STREAM_CLOSED))]
    assert gone == [True]
    assert not peer.transport.closed


def test_who_does_not_speak_it_is_cut_off() -> None:
    peer = Peer()
    peer.connection.data_received(b"GET / HTTP/1.1\r\n")
    assert peer.transport.closed
