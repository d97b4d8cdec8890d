"""What is asked of a running shim: containerd.task (v2 and v3 have the same messages) and containerd.runtime.sandbox.

A shim that died is seen by the end of its connection: `Gone`. What it answers as an error is a RopewalkError that names
the container; a container that it does not know is NotFound.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ropewalk import ids
from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError, Unsupported
from ropewalk.runtimes.drivers import command
from ropewalk.runtimes.drivers.shim.binary import Endpoint
from ropewalk.storage import snapshotter
from ropewalk.wire import ttrpc
from ropewalk.wire.pb import shim_pb2 as pb

SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"
CONNECT_SECONDS = 5.0
CALL_SECONDS = 20.0
KILL_SECONDS = 10.0
CREATE_SECONDS = 120.0  # Kata boots a virtual machine in it
SHUTDOWN_SECONDS = 3.0  # its answer may never come
HIGHEST_CODE = 255
HYBRID_LINE = 64  # bytes of Firecracker's and Cloud Hypervisor's answer to CONNECT

KINDS = {  # gRPC's codes
    3: Kind.INVALID,
    4: Kind.TIMEOUT,
    5: Kind.NOT_FOUND,
    6: Kind.EXISTS,
    7: Kind.DENIED,
    8: Kind.EXHAUSTED,
    9: Kind.STATE,
    10: Kind.STATE,
    12: Kind.UNSUPPORTED,
    14: Kind.UNAVAILABLE,
}

# runc's shim says these as UNKNOWN: cmd/containerd-shim-runc-v2/process/{init,exec}_state.go
NOT_RUNNING = (
    *("in a stopped state", "in a deleted state", "in a created state"),
    *("a stopped process", "a deleted process", "a running process"),
)

M = TypeVar("M", bound=Message)


class Gone(Exception):
    """The shim's connection ended, or nobody answers at its address. Whether it lives, the kernel tells."""


class Shim:
    """A connection to one shim. `pid` is the shim's own, as it says itself; 0 as long as it has not."""

    def __init__(self, endpoint: Endpoint, client: ttrpc.Client) -> None:
        self.endpoint = endpoint
        self.client = client
        self.version = endpoint.version
        self.pid = 0

    @property
    def is_gone(self) -> bool:
        return self.client.closed.done()

    async def greet(self, id: str) -> bool:
        """Learn which task API it serves, some say that they have another than they do, and the shim's pid. False where
        it does not tell that: runwasi refuses Connect for a task that it does not have, which the others answer."""
        for version in (self.version, 5 - self.version):
            self.version = version
            try:
                request = pb.ProcessRequest(id=id)
                answer = await self._raw(self._tasks, "Connect", request, pb.ConnectResponse, CALL_SECONDS)
            except ttrpc.Refused as error:
                if is_unserved(error):
                    continue
                return False
            except TimeoutError:
                raise Gone(f"no answer to Connect within {CALL_SECONDS:g} s") from None
            self.pid = answer.shim_pid
            return True
        raise Unsupported(
            f"container {ids.short(id)}: its shim at {self.endpoint.address} serves no task API known here"
        )

    @property
    def _tasks(self) -> str:
        return f"containerd.task.v{self.version}.Task"

    async def _raw(self, service: str, method: str, request: Message, answer: type[M], timeout: float | None) -> M:
        try:
            payload = await self.client.call(service, method, request.SerializeToString(), timeout=timeout)
        except ttrpc.Closed as error:
            raise Gone(str(error)) from error
        except ValueError as error:
            raise Invalid(f"{service}/{method}: {error}", hint="shorten the command or its environment") from error
        try:
            return answer.FromString(payload)
        except DecodeError as error:
            raise RopewalkError(f"{service}/{method}: the shim's answer cannot be read: {error}") from error

    async def _call(
        self, method: str, request: Message, answer: type[M], id: str, *, timeout: float | None = CALL_SECONDS
    ) -> M:
        return await self._ask(self._tasks, method, request, answer, id, timeout)

    async def _ask(
        self, service: str, method: str, request: Message, answer: type[M], id: str, timeout: float | None
    ) -> M:
        """The answer, or an error that names the container."""
        try:
            return await self._raw(service, method, request, answer, timeout)
        except ttrpc.Refused as error:
            raise failure(id, method, error) from None
        except TimeoutError:
            text = f"container {ids.short(id)}: the shim did not answer {method} within {timeout:g} s"
            raise RopewalkError(text, hint="it hangs: see its log in the daemon's", kind=Kind.TIMEOUT) from None

    # Tasks. Each raises Gone, and RopewalkError as `failure` says.

    async def create(self, request: pb.CreateTaskRequest) -> int:
        """The pid of the created, not yet started process."""
        answer = await self._call("Create", request, pb.CreateTaskResponse, request.id, timeout=CREATE_SECONDS)
        return answer.pid

    async def start(self, id: str, exec_id: str = "") -> int:
        request = pb.ProcessRequest(id=id, exec_id=exec_id)
        return (await self._call("Start", request, pb.StartResponse, id, timeout=CREATE_SECONDS)).pid

    async def wait(self, id: str, exec_id: str = "") -> pb.WaitResponse:
        """For as long as it takes."""
        return await self._call("Wait", pb.ProcessRequest(id=id, exec_id=exec_id), pb.WaitResponse, id, timeout=None)

    async def state(self, id: str, exec_id: str = "") -> pb.StateResponse:
        return await self._call("State", pb.ProcessRequest(id=id, exec_id=exec_id), pb.StateResponse, id)

    async def delete(self, id: str, exec_id: str = "") -> pb.DeleteResponse:
        return await self._call("Delete", pb.ProcessRequest(id=id, exec_id=exec_id), pb.DeleteResponse, id)

    async def kill(self, id: str, signum: int, *, exec_id: str = "", everything: bool = False) -> None:
        """`everything`: of the container. Never with an `exec_id`: Kata kills all of the container then, too."""
        request = pb.KillRequest(id=id, exec_id=exec_id, signal=signum, all=everything)
        await self._call("Kill", request, pb.Empty, id, timeout=KILL_SECONDS)

    async def exec(self, request: pb.ExecProcessRequest) -> None:
        await self._call("Exec", request, pb.Empty, request.id)

    async def resize(self, id: str, exec_id: str, width: int, height: int) -> None:
        request = pb.ResizePtyRequest(id=id, exec_id=exec_id, width=width, height=height)
        await self._call("ResizePty", request, pb.Empty, id)

    async def close_stdin(self, id: str, exec_id: str = "") -> None:
        await self._call("CloseIO", pb.CloseIORequest(id=id, exec_id=exec_id, stdin=True), pb.Empty, id)

    async def update(self, id: str, resources: pb.Any) -> None:
        await self._call("Update", pb.UpdateTaskRequest(id=id, resources=resources), pb.Empty, id)

    async def stats(self, id: str) -> pb.Any:
        return (await self._call("Stats", pb.ProcessRequest(id=id), pb.StatsResponse, id)).stats

    async def shutdown(self, id: str) -> None:
        """Ask it to end. One that has other containers stays; one that ends often does so without an answer."""
        try:
            await self._call("Shutdown", pb.ShutdownRequest(id=id), pb.Empty, id, timeout=SHUTDOWN_SECONDS)
        except (Gone, RopewalkError):
            return

    # The sandbox, where it is served.

    async def create_sandbox(self, request: pb.CreateSandboxRequest) -> None:
        """Unsupported where the shim has no Sandbox API."""
        id = request.sandbox_id
        try:
            await self._raw(SANDBOX, "CreateSandbox", request, pb.Empty, CREATE_SECONDS)
        except ttrpc.Refused as error:
            if is_unserved(error):
                raise Unsupported(f"pod {ids.short(id)}: its shim has no Sandbox API") from None
            raise failure(id, "CreateSandbox", error) from None
        except TimeoutError:
            text = f"pod {ids.short(id)}: the shim did not answer CreateSandbox within {CREATE_SECONDS:g} s"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None

    async def start_sandbox(self, id: str) -> int:
        request = pb.SandboxRequest(sandbox_id=id)
        return (await self._ask(SANDBOX, "StartSandbox", request, pb.StartSandboxResponse, id, CREATE_SECONDS)).pid

    async def stop_sandbox(self, id: str, seconds: int) -> None:
        request = pb.StopSandboxRequest(sandbox_id=id, timeout_secs=seconds)
        await self._ask(SANDBOX, "StopSandbox", request, pb.Empty, id, seconds + CALL_SECONDS)

    async def shutdown_sandbox(self, id: str) -> None:
        """As `shutdown`: its end is its answer."""
        try:
            await self._raw(SANDBOX, "ShutdownSandbox", pb.SandboxRequest(sandbox_id=id), pb.Empty, SHUTDOWN_SECONDS)
        except (Gone, ttrpc.Refused, TimeoutError):
            return

    async def sandbox_metrics(self, id: str) -> pb.Any:
        request = pb.SandboxRequest(sandbox_id=id)
        answer = await self._ask(SANDBOX, "SandboxMetrics", request, pb.SandboxMetricsResponse, id, CALL_SECONDS)
        return answer.metrics.data

    async def close(self) -> None:
        await self.client.close()


def is_unserved(error: ttrpc.Refused) -> bool:
    """Whether service or method are not there. ttrpc before 1.2 says NOT_FOUND, with the word."""
    return error.code == ttrpc.UNIMPLEMENTED or (
        error.code == ttrpc.NOT_FOUND and error.message.startswith(("service ", "method "))
    )


def failure(id: str, method: str, error: ttrpc.Refused) -> RopewalkError:
    """The shim's refusal as an error of ours. Shims answer most with UNKNOWN, so the text counts, too."""
    if error.code == ttrpc.NOT_FOUND:
        return NotFound(f"container {ids.short(id)}: {method}: {error.message}")
    found = command.failure(id, method, error.message)
    if found.kind is Kind.INTERNAL:
        found.kind = KINDS.get(error.code, Kind.INTERNAL)
        if found.kind is Kind.INTERNAL and any(words in error.message for words in NOT_RUNNING):
            found.kind = Kind.STATE
    return found


async def connect(endpoint: Endpoint, namespace: str) -> Shim:
    """Gone if nobody answers there."""
    metadata = {"containerd-namespace-ttrpc": namespace}
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            client = await ttrpc.adopt(await _dial(endpoint.address), metadata=metadata)
    except (OSError, TimeoutError, ValueError, OverflowError) as error:  # the last two: a port or path that is none
        raise Gone(f"{endpoint.address}: {error or 'no answer'}") from error
    return Shim(endpoint, client)


def socket_path(address: str) -> str:
    """Of a unix address, "" for any other; without a scheme it is an abstract one."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return f"\0{address}"
    return rest if scheme == "unix" else ""


async def _dial(address: str) -> socket.socket:
    """unix://PATH, hvsock://PATH:PORT (a virtual machine's socket that is asked for a port first), vsock://CID:PORT."""
    scheme, _, rest = address.partition("://")
    loop = asyncio.get_running_loop()
    target: str | tuple[int, int]
    if scheme == "vsock":
        cid, _, port = rest.partition(":")
        target = int(cid), int(port)
        dialled = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    else:
        path, _, port = rest.rpartition(":") if scheme == "hvsock" else (socket_path(address), "", "")
        if not path:
            raise OSError(errno.EPROTONOSUPPORT, f"the address {address!r} is of no kind known here")
        dialled, target = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path
    try:
        dialled.setblocking(False)
        await loop.sock_connect(dialled, target)
        if scheme == "hvsock":
            await loop.sock_sendall(dialled, f"CONNECT {port}\n".encode())
            await _hybrid_answer(dialled, address)
    except BaseException:
        dialled.close()
        raise
    return dialled


async def _hybrid_answer(dialled: socket.socket, address: str) -> None:
    """`OK PORT`, read byte by byte: what follows belongs to the conversation."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n") and len(line) < HYBRID_LINE:
        byte = await loop.sock_recv(dialled, 1)
        if not byte:
            break
        line += byte
    if not line.startswith(b"OK"):
        raise OSError(errno.ECONNREFUSED, f"{address} answered {line!r}")


def build_mounts(mounts: Sequence[snapshotter.Mount]) -> list[pb.Mount]:
    """A snapshot's mounts as a shim takes them: mount(8)'s words."""
    built = []
    for one in mounts:
        options = list(one.options)
        if one.type == "overlay":
            options.append(f"lowerdir={':'.join(one.layers)}")
            if one.upper:
                options += [f"upperdir={one.upper}", f"workdir={one.work}"]
        elif one.type == "bind" and not {"bind", "rbind"} & set(options):
            options.append("rbind")
        built.append(pb.Mount(type=one.type, source=one.source or one.type, options=options))
    return built


def read_end(answer: pb.WaitResponse | pb.DeleteResponse) -> tuple[int, int]:
    """Exit code and time (ns since the epoch). A code that no process has, as the -1 of an agent that lost it, is 255;
    a time that there is not, or that no int64 holds, is now: the CRI could not say them."""
    code = answer.exit_status if answer.exit_status <= HIGHEST_CODE else HIGHEST_CODE
    at = answer.exited_at.seconds * 1_000_000_000 + answer.exited_at.nanos
    return code, at if 10**9 <= at < 1 << 63 else time.time_ns()
