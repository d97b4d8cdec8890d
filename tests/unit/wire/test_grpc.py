"""The server over a real unix socket: codes, logs, limits, streams."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.wire import grpc as wire
from ropewalk.wire import operation
from ropewalk.wire.pb import cri_pb2 as pb

RUNTIME = pb.DESCRIPTOR.services_by_name["RuntimeService"]
IMAGES = pb.DESCRIPTOR.services_by_name["ImageService"]


class Runtime:
    """What a service looks like: some methods of the descriptor, misbehaving on demand."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()
        self.operations: list[str] = []

    async def Version(self, request: pb.VersionRequest) -> pb.VersionResponse:  # noqa: N802
        self.operations.append(operation.current())
        return pb.VersionResponse(version="0.1.0")

    async def ListContainers(self, request: pb.ListContainersRequest) -> bytes:  # noqa: N802
        size = int(request.filter.id or 0)
        return pb.ListContainersResponse(containers=[pb.Container(id="x" * size)]).SerializeToString()

    async def StopContainer(self, request: pb.StopContainerRequest) -> pb.StopContainerResponse:  # noqa: N802
        match request.container_id:
            case "absent":
                raise NotFound("no container 'absent'", hint="look")
            case "noted":
                error = RopewalkError("broken", kind=Kind.STATE)
                error.add_note("undo of task failed: busy")
                raise error
            case "surrogate":
                raise Invalid(os.fsdecode(b"no file \xff\xfe") + "é" * 5000)
            case "defect":
                raise ZeroDivisionError("oops")
            case "slow":
                self.begun.set()
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
        return pb.StopContainerResponse()

    async def ExecSync(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:  # noqa: N802
        return pb.ExecSyncResponse()

    async def StreamContainers(self, request: pb.StreamContainersRequest) -> AsyncIterator[bytes]:  # noqa: N802
        for id in ("a", "b"):
            yield pb.StreamContainersResponse(containers=[pb.Container(id=id)]).SerializeToString()
        if request.filter.id == "broken":
            raise Invalid("no more")


class Images:
    async def PullImage(self, request: pb.PullImageRequest) -> pb.PullImageResponse:  # noqa: N802
        raise RopewalkError(f"registry refused password {request.auth.password!r}", kind=Kind.DENIED)


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
async def channel(tmp_path: Path, runtime: Runtime) -> AsyncIterator[grpc.aio.Channel]:
    server = wire.Server([(RUNTIME, runtime), (IMAGES, Images())])
    path = str(tmp_path / "s")
    await server.start(path)
    async with wire.channel("unix://" + path) as channel:
        yield channel
    await server.stop(0)


async def call(channel: grpc.aio.Channel, method: str, request: Any, reply: Any, **options: Any) -> Any:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    invoke: Any = channel.unary_unary(f"/runtime.v1.{method}")
    return reply.FromString(await invoke(data, **options))


async def refused(channel: grpc.aio.Channel, method: str, request: Any, **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, method, request, pb.VersionResponse, **options)
    return caught.value


async def stop(channel: grpc.aio.Channel, id: str, **options: Any) -> grpc.aio.AioRpcError:
    return await refused(channel, "RuntimeService/StopContainer", pb.StopContainerRequest(container_id=id), **options)


async def test_the_socket_is_for_root_and_its_group(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    mode = (tmp_path / "s").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


async def test_each_call_has_its_operation(channel: grpc.aio.Channel, runtime: Runtime) -> None:
    before = operation.current()
    for _ in range(2):
        reply = await call(channel, "RuntimeService/Version", pb.VersionRequest(), pb.VersionResponse)
        assert reply.version == "0.1.0"
    first, second = runtime.operations
    assert len(first) == 8
    assert first != second
    assert operation.current() == before


async def test_an_error_has_its_code_text_and_hint(channel: grpc.aio.Channel) -> None:
    error = await stop(channel, "absent")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no container 'absent'; look"


async def test_what_stays_behind_is_told(channel: grpc.aio.Channel) -> None:
    error = await stop(channel, "noted")
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "broken; undo of task failed: busy"


async def test_a_long_text_of_any_bytes_fits_into_headers(channel: grpc.aio.Channel) -> None:
    error = await stop(channel, "surrogate")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("no file \\udcff\\udcfeé")
    assert (error.details() or "").endswith("...")


async def test_a_defect_is_internal_and_its_traceback_is_logged(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    error = await stop(channel, "defect")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError: oops (operation " in (error.details() or "")
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_one_line_per_call(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    request = pb.StopContainerRequest(container_id="c1")
    await call(channel, "RuntimeService/StopContainer", request, pb.StopContainerResponse)
    await call(channel, "RuntimeService/Version", pb.VersionRequest(), pb.VersionResponse)
    await call(
        channel, "RuntimeService/ExecSync", pb.ExecSyncRequest(container_id="c1"), pb.ExecSyncResponse
    )  # a probe
    (record,) = [r for r in caplog.records if r.name == "ropewalk.wire.grpc"]
    facts = record.__dict__
    assert (facts["method"], facts["container"], facts["code"]) == ("StopContainer", "c1", "OK")
    assert facts["ms"] >= 0


async def test_secrets_are_neither_told_nor_logged(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    request = pb.PullImageRequest(image=pb.ImageSpec(image="r/x"), auth=pb.AuthConfig(password="hunter2"))
    error = await refused(channel, "ImageService/PullImage", request)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "hunter2" not in str(error.details())
    assert "hunter2" not in "".join(str(r.__dict__) for r in caplog.records)
    assert [r.__dict__["image"] for r in caplog.records if r.name == "ropewalk.wire.grpc"] == ["r/x"]


async def test_what_is_not_built_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for name in ("Exec", "CheckpointPod", "ListMetricDescriptors"):
        error = await refused(channel, f"RuntimeService/{name}", b"")
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert name in (error.details() or "")
    assert (await refused(channel, "RuntimeService/NoSuch", b"")).code() is grpc.StatusCode.UNIMPLEMENTED
    events: Any = channel.unary_stream("/runtime.v1.RuntimeService/GetContainerEvents")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in events(b""):
            pass
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_malformed_request_is_invalid(channel: grpc.aio.Channel) -> None:
    for data in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):  # no message; a string that is not UTF-8
        error = await refused(channel, "RuntimeService/StopContainer", data)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "StopContainer" in (error.details() or "")


async def test_messages_have_a_limit_both_ways(channel: grpc.aio.Channel) -> None:
    error = await stop(channel, "x" * (wire.LIMIT + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    large = pb.ListContainersRequest(filter=pb.ContainerFilter(id=str(wire.LIMIT)))
    error = await refused(channel, "RuntimeService/ListContainers", large)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "streams" in (error.details() or "")
    fits = pb.ListContainersRequest(filter=pb.ContainerFilter(id=str(wire.LIMIT - 64)))
    reply = await call(channel, "RuntimeService/ListContainers", fits, pb.ListContainersResponse)
    assert len(reply.containers[0].id) == wire.LIMIT - 64


async def test_a_caller_who_leaves_cancels(channel: grpc.aio.Channel, runtime: Runtime) -> None:
    for limit in (0.05, 0.5, 5.0):  # on a crowded machine a call may not have arrived in less
        error = await stop(channel, "slow", timeout=limit)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if runtime.begun.is_set():
            break
    async with asyncio.timeout(20):
        await runtime.cancelled.wait()


async def test_a_stream_is_a_sequence_of_messages(channel: grpc.aio.Channel) -> None:
    method: Any = channel.unary_stream("/runtime.v1.RuntimeService/StreamContainers")
    replies = [pb.StreamContainersResponse.FromString(data) async for data in method(b"")]
    assert [c.id for reply in replies for c in reply.containers] == ["a", "b"]
    request = pb.StreamContainersRequest(filter=pb.ContainerFilter(id="broken"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [data async for data in method(request.SerializeToString())]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    await wire.claim(str(path))
    assert not path.exists()


async def test_a_socket_that_answers_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.0)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(RopewalkError, match="another process answers") as caught:
            await wire.claim(str(path))
    assert caught.value.kind is Kind.STATE
    assert path.exists()


async def test_what_a_killed_daemon_was_starting_holds_its_socket_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 20.0)
    path = tmp_path / "s"
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(path))
    held.listen()
    claiming = asyncio.ensure_future(wire.claim(str(path)))
    await asyncio.sleep(0)
    assert not claiming.done()
    held.close()
    await claiming
    assert not path.exists()


async def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(Invalid, match="not a socket"):
        await wire.claim(str(path))
    assert path.read_text() == "precious"


async def test_a_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="longer than 107 bytes"):
        await wire.claim("/" + "x" * 107)


@pytest.mark.parametrize("address", ["/run/a b.sock", "unix:///run/a b.sock", "unix:/run/a b.sock"])
def test_addresses(address: str) -> None:
    assert wire.target(address) == "unix:/run/a%20b.sock"
