"""What is asked of a shim: versions, errors, addresses, mounts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes.drivers.shim import task
from ropewalk.runtimes.drivers.shim.binary import Endpoint
from ropewalk.storage.snapshotter import Mount
from ropewalk.wire import ttrpc
from ropewalk.wire.pb import shim_pb2 as pb

Serve = Callable[[ttrpc.Answer], Awaitable[str]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(answer)`: the address of a server that answers so."""
    servers: list[ttrpc.Server] = []

    async def start(answer: ttrpc.Answer) -> str:
        path = str(tmp_path / f"s{len(servers)}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(path)
        listening.listen()
        servers.append(ttrpc.Server(answer))
        await servers[-1].start(listening)
        return f"unix://{path}"

    yield start
    for server in servers:
        await server.close()


def serving(version: int, *, unserved: ttrpc.Refused) -> ttrpc.Answer:
    async def answer(service: str, method: str, payload: bytes) -> bytes:
        if service != f"containerd.task.v{version}.Task":
            raise unserved
        return pb.ConnectResponse(shim_pid=42).SerializeToString()

    return answer


@pytest.mark.parametrize("served", [2, 3])
@pytest.mark.parametrize("said", [2, 3])
@pytest.mark.parametrize(
    "unserved", [ttrpc.Refused(12, "service x"), ttrpc.Refused(5, "service containerd.task.v3.Task")]
)
async def test_the_task_api_is_the_one_that_answers(
    serve: Serve, served: int, said: int, unserved: ttrpc.Refused
) -> None:
    shim = await task.connect(Endpoint(await serve(serving(served, unserved=unserved)), said), "ns")
    await shim.greet("box")
    assert (shim.version, shim.pid) == (served, 42)
    await shim.close()


async def test_a_shim_without_a_task_api_is_unsupported(serve: Serve) -> None:
    shim = await task.connect(Endpoint(await serve(serving(9, unserved=ttrpc.Refused(12, "")))), "ns")
    with pytest.raises(RopewalkError, match="no task API") as caught:
        await shim.greet("box")
    assert caught.value.kind is Kind.UNSUPPORTED
    await shim.close()


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (5, "container not created", Kind.NOT_FOUND),
        (9, "cannot start a stopped process", Kind.STATE),
        (2, 'exec: "nothing": executable file not found in $PATH', Kind.INVALID),
        (2, "OCI runtime create failed: who knows", Kind.INTERNAL),
        (8, "no memory", Kind.EXHAUSTED),
    ],
)
async def test_an_error_names_the_container(serve: Serve, code: int, text: str, kind: Kind) -> None:
    async def answer(service: str, method: str, payload: bytes) -> bytes:
        raise ttrpc.Refused(code, text)

    shim = await task.connect(Endpoint(await serve(answer)), "ns")
    with pytest.raises(RopewalkError, match="box: Start") as caught:
        await shim.start("box")
    assert caught.value.kind is kind
    assert text in caught.value.message
    await shim.close()


async def test_a_shim_that_dies_is_gone(serve: Serve) -> None:
    async def answer(service: str, method: str, payload: bytes) -> bytes:
        await asyncio.sleep(9)
        return b""

    shim = await task.connect(Endpoint(await serve(answer)), "ns")
    waiting = asyncio.ensure_future(shim.wait("box"))
    shutting = asyncio.ensure_future(shim.shutdown("box"))
    await asyncio.sleep(0)
    await shim.close()
    with pytest.raises(task.Gone):
        await waiting
    await shutting  # the end of the connection is an answer
    assert shim.is_gone
    with pytest.raises(task.Gone):
        await shim.state("box")


async def test_an_answer_that_is_none_is_an_error(serve: Serve) -> None:
    async def answer(service: str, method: str, payload: bytes) -> bytes:
        return b"\xff\xff"

    shim = await task.connect(Endpoint(await serve(answer)), "ns")
    with pytest.raises(RopewalkError, match="cannot be read"):
        await shim.state("box")
    await shim.close()


@pytest.mark.parametrize("address", ["unix:///nowhere/s", "http://example.org", "hvsock:///nowhere:1"])
async def test_nobody_there_is_gone(address: str) -> None:
    with pytest.raises(task.Gone):
        await task.connect(Endpoint(address), "ns")


@pytest.mark.parametrize(
    ("reply", "good"), [(b"OK 1073741824\n", True), (b"no\n", False), (b"", False), (b"O" * 99, False)]
)
async def test_a_machines_socket_is_asked_for_the_port(tmp_path: Path, reply: bytes, good: bool) -> None:
    asked = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(reply)
        if good:
            header = await reader.readexactly(ttrpc.HEADER.size)
            await reader.readexactly(ttrpc.HEADER.unpack(header)[0])
            writer.write(ttrpc.encode(1, ttrpc.RESPONSE, b""))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "vm")
    endpoint = Endpoint(f"hvsock://{tmp_path}/vm:1024")
    if good:
        shim = await task.connect(endpoint, "ns")
        await shim.kill("box", 9)
        await shim.close()
    else:
        with pytest.raises(task.Gone):
            await task.connect(endpoint, "ns")
    assert asked == [b"CONNECT 1024\n"]
    server.close()


@pytest.mark.parametrize("address", ["vsock://three:1024", "vsock://3", "vsock://3:99999999999999", "unix:///a\0b"])
async def test_an_address_that_is_none_is_nobodys(address: str) -> None:
    with pytest.raises(task.Gone):
        await task.connect(Endpoint(address), "ns")


def test_mounts_are_written_as_mount8_takes_them() -> None:
    mounts = [
        Mount("overlay", layers=["/b", "/a"], upper="/u", work="/w", options=["volatile"]),
        Mount("bind", source="/x", options=["ro"]),
    ]
    overlay, bind = task.build_mounts(mounts)
    assert (overlay.type, overlay.source) == ("overlay", "overlay")
    assert list(overlay.options) == ["volatile", "lowerdir=/b:/a", "upperdir=/u", "workdir=/w"]
    assert (bind.source, list(bind.options)) == ("/x", ["ro", "rbind"])


def test_an_address_without_a_scheme_is_abstract() -> None:
    assert task.socket_path("unix:///s") == "/s"
    assert task.socket_path("containerd-shim/x.sock") == "\0containerd-shim/x.sock"
    assert task.socket_path("vsock://3:1024") == ""
