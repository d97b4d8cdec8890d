"""ttrpc: frames cut anywhere, calls side by side, and what a broken peer does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.wire import ttrpc
from ropewalk.wire.pb import ttrpc_pb2 as pb

FRAMES = [
    ttrpc.Frame(1, ttrpc.REQUEST, 0, b"first"),
    ttrpc.Frame(3, ttrpc.RESPONSE, 0, b""),
    ttrpc.Frame((1 << 31) - 1, 3, 5, bytes(range(256))),
]
STREAM = b"".join(ttrpc.encode(f.stream, f.type, f.data, f.flags) for f in FRAMES)


def test_frames_survive_any_split() -> None:
    for cut in range(len(STREAM) + 1):
        reader = ttrpc.FrameReader()
        first = reader.feed(STREAM[:cut])
        assert reader.is_inside_frame == (sum(10 + len(f.data) for f in first) < cut)
        assert first + reader.feed(STREAM[cut:]) == FRAMES
        assert not reader.is_inside_frame


def test_frames_survive_single_bytes() -> None:
    reader = ttrpc.FrameReader()
    assert [frame for byte in STREAM for frame in reader.feed(bytes([byte]))] == FRAMES


def test_the_header_is_the_published_one() -> None:
    assert ttrpc.encode(1, ttrpc.REQUEST, b"ab", 2) == bytes.fromhex("00000002 00000001 01 02") + b"ab"


def test_a_frame_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    full = bytes(ttrpc.LIMIT)
    assert ttrpc.FrameReader().feed(ttrpc.encode(1, 2, full)) == [ttrpc.Frame(1, 2, 0, full)]
    with pytest.raises(ValueError, match="4194305"):
        ttrpc.encode(1, 2, full + b"x")
    with pytest.raises(ttrpc.ProtocolError, match="4194305"):  # from the header alone: nothing is kept for it
        ttrpc.FrameReader().feed(struct.pack(">IIBB", ttrpc.LIMIT + 1, 1, 2, 0))


@pytest.fixture
def gate() -> asyncio.Event:
    """Until it is set, Wait is not answered."""
    return asyncio.Event()


@pytest.fixture
async def path(tmp_path: Path, gate: asyncio.Event) -> AsyncIterator[str]:
    """The socket of a server that answers as `answer` does."""

    async def answer(service: str, method: str, payload: bytes) -> bytes:
        if method == "Refuse":
            raise ttrpc.Refused(5, "not there")
        if method == "Fail":
            raise ZeroDivisionError
        if method == "Wait":
            await gate.wait()
        return f"{service}.{method}:".encode() + payload

    name = str(tmp_path / "s")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(name)
    listening.listen()
    server = ttrpc.Server(answer)
    await server.start(listening)
    yield name
    await server.close()


@pytest.fixture
async def client(path: str) -> AsyncIterator[ttrpc.Client]:
    client = await ttrpc.connect(path, timeout=20)
    yield client
    await client.close()


async def test_a_call_has_its_answer(client: ttrpc.Client) -> None:
    assert await client.call("s", "Echo", b"x" * 100_000, timeout=20) == b"s.Echo:" + b"x" * 100_000


async def test_a_call_that_waits_holds_up_nothing(client: ttrpc.Client, gate: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(client.call("s", "Wait", b"", timeout=20))
    await asyncio.sleep(0)
    assert await client.call("s", "Echo", b"", timeout=20) == b"s.Echo:"
    assert not waiting.done()
    gate.set()
    assert await waiting == b"s.Wait:"


async def test_an_error_is_the_peers_code_and_text(client: ttrpc.Client) -> None:
    with pytest.raises(ttrpc.Refused, match="not there") as caught:
        await client.call("s", "Refuse", b"", timeout=20)
    assert caught.value.code == 5
    with pytest.raises(ttrpc.Refused, match="ZeroDivisionError") as caught:
        await client.call("s", "Fail", b"", timeout=20)
    assert caught.value.code == ttrpc.INTERNAL


async def test_a_late_answer_is_dropped(client: ttrpc.Client, gate: asyncio.Event) -> None:
    with pytest.raises(TimeoutError):
        await client.call("s", "Wait", b"", timeout=0.01)
    gate.set()
    assert await client.call("s", "Echo", b"", timeout=20) == b"s.Echo:"


async def test_the_end_of_the_connection_ends_every_call(client: ttrpc.Client) -> None:
    calls = [asyncio.ensure_future(client.call("s", "Wait", b"", timeout=None)) for _ in range(3)]
    await asyncio.sleep(0)
    await client.close()
    assert [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)] == [ttrpc.Closed] * 3
    with pytest.raises(ttrpc.Closed):
        await client.call("s", "Echo", b"", timeout=20)


async def test_the_request_carries_metadata_and_deadline() -> None:
    ours, theirs = socket.socketpair()
    client = await ttrpc.adopt(ours, metadata={"containerd-namespace-ttrpc": "ns"})
    with contextlib.suppress(TimeoutError):
        await client.call("s", "M", b"p", timeout=0.01)
    [frame] = ttrpc.FrameReader().feed(theirs.recv(1 << 16))
    request = pb.Request.FromString(frame.data)
    assert (frame.stream, frame.type, frame.flags) == (1, ttrpc.REQUEST, 0)
    assert (request.service, request.method, request.payload, request.timeout_nano) == ("s", "M", b"p", 10_000_000)
    assert [(one.key, one.value) for one in request.metadata] == [("containerd-namespace-ttrpc", "ns")]
    await client.close()
    theirs.close()


GARBAGE = {
    "noise": os.urandom(4) + b"\xff" * 32,
    "an answer that is no message": ttrpc.encode(1, ttrpc.RESPONSE, b"\xff\xff\xff"),
    "a request": ttrpc.encode(1, ttrpc.REQUEST, b""),
    "an answer to nothing": ttrpc.encode(7, ttrpc.RESPONSE, b""),
    "an answer on an even stream": ttrpc.encode(2, ttrpc.RESPONSE, b""),
    "a huge frame": struct.pack(">IIBB", (1 << 32) - 1, 1, ttrpc.RESPONSE, 0),
    "half a frame": ttrpc.encode(1, ttrpc.RESPONSE, b"abc")[:-1],
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_peer_that_breaks_the_rules_is_left(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    client = await ttrpc.adopt(ours)
    call = asyncio.ensure_future(client.call("s", "M", b"", timeout=20))
    await asyncio.sleep(0)
    theirs.send(data)
    theirs.close()
    with pytest.raises(ttrpc.Closed):
        await call
    assert client.closed.done()


@pytest.mark.parametrize(
    "data", [ttrpc.encode(2, ttrpc.REQUEST, b""), ttrpc.encode(1, ttrpc.RESPONSE, b""), ttrpc.encode(1, 1, b"\xff")]
)
async def test_a_client_that_breaks_the_rules_is_cut_off(path: str, data: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    assert await reader.read() == b""
    writer.close()


async def test_a_stream_of_messages_is_refused(path: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(ttrpc.encode(1, ttrpc.REQUEST, pb.Request(service="s", method="M").SerializeToString(), 2))
    header = await reader.readexactly(10)
    length, stream, type, _ = ttrpc.HEADER.unpack(header)
    assert (stream, type) == (1, ttrpc.RESPONSE)
    assert pb.Response.FromString(await reader.readexactly(length)).status.code == ttrpc.UNIMPLEMENTED
    writer.close()
