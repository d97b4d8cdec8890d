"""A containerd shim that does as it is told, well or badly; the driver's tests run it as a program of its own.

`install(directory, behaviour)` writes the program. Its containers are processes of the node, which die with it, as a
virtual machine's do: it tells its own pid as theirs. Each call is a line of `calls` in the program's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ropewalk.linux import process
from ropewalk.wire import ttrpc
from ropewalk.wire.pb import shim_pb2 as pb

ROOT = Path(__file__).parents[2]
SOCKETS = "/run/containerd/s"
SANDBOX = "containerd.runtime.sandbox.v1.Sandbox"
EVENTS = "containerd.services.events.ttrpc.v1.Events"


class Behaviour(Struct, frozen=True):
    """`faults`: method to what happens at it: "crash", "never", "garbage", "huge", "eof", "refuse CODE TEXT", "slow S";
    "after crash" answers first. "start" and "delete" are the verbs: "slow S", "fail TEXT"."""

    dialect: str = "legacy"  # or "bootstrap", or "" for one that reads nothing
    answer: str = "plain"  # or "json", "protobuf"
    version: int = 2
    groups: bool = True
    sandbox: bool = False
    faults: dict[str, str] = {}
    info: str = ""  # the version that `-info` tells
    oom: bool = False  # say so before each end
    reordered: bool = False  # the end is told before the start
    stays: bool = False  # whatever Shutdown asks
    tells: dict[str, int] = {}  # the pid that it names at Connect, or at Create; the code at Wait; seconds, at "ended"


def install(directory: Path, behaviour: Behaviour | None = None, name: str = "containerd-shim-fake-v2") -> Path:
    """The program's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    (directory / "behaviour.json").write_bytes(msgspec.json.encode(behaviour or Behaviour()))
    body = f"import sys\nsys.path[:0] = {[str(ROOT), *sys.path]!r}\nfrom tests.fakes import shim\nshim.main()\n"
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


def calls(program: Path) -> list[dict[str, Any]]:
    path = program.parent / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def methods(program: Path) -> list[str]:
    return [call["method"] for call in calls(program)]


class Program:
    """What the program was started with."""

    def __init__(self) -> None:
        self.path = Path(sys.argv[0])
        self.behaviour = msgspec.json.decode((self.path.parent / "behaviour.json").read_bytes(), type=Behaviour)
        words = sys.argv[1:]
        self.flags = {words[at]: words[at + 1] for at in range(0, len(words) - 1, 2) if words[at].startswith("-")}
        self.verb = words[-1] if len(words) % 2 else ""
        self.id = self.flags.get("-id", "")

    def note(self, method: str, **facts: Any) -> None:
        with open(self.path.parent / "calls", "a", encoding="utf-8") as file:
            file.write(json.dumps({"method": method, **facts}) + "\n")

    def fault(self, method: str) -> list[str]:
        return self.behaviour.faults.get(method, "").split(" ", 2) if method in self.behaviour.faults else []


def main() -> None:
    program = Program()
    if program.flags.get("-v") or sys.argv[1:] == ["-v"]:
        print("containerd-shim-fake-v2:\n  Version:  0.1")
    elif sys.argv[1:] == ["-info"]:
        info(program)
    elif program.verb == "start":
        start(program)
    elif program.verb == "delete":
        delete(program)
    else:
        asyncio.run(Shim(program).run())


def info(program: Program) -> None:
    """Those of before containerd 2.0 have no such flag."""
    if not program.behaviour.info:
        sys.exit(2)
    answer = pb.RuntimeInfo(name="io.containerd.fake.v2")
    answer.version.version = program.behaviour.info
    sys.stdout.buffer.write(answer.SerializeToString())


def start(program: Program) -> None:
    given = sys.stdin.buffer.read()
    program.note("start", id=program.id)
    fault = program.fault("start")
    if fault[:1] == ["slow"]:
        time.sleep(float(fault[1]))
    if fault[:1] == ["fail"]:
        sys.exit(" ".join(fault[1:]))
    check_dialect(program, given)
    address = listen(program)
    if program.behaviour.answer == "protobuf":
        answer = pb.BootstrapResult(version=program.behaviour.version, address=address, protocol="ttrpc")
        sys.stdout.buffer.write(answer.SerializeToString())
    elif program.behaviour.answer == "json":
        print(json.dumps({"version": program.behaviour.version, "address": address, "protocol": "ttrpc"}))
    else:
        print(address)


def check_dialect(program: Program, given: bytes) -> None:
    if program.behaviour.dialect == "bootstrap":
        params = pb.BootstrapParams.FromString(given)
        if params.instance_id != program.id:
            sys.exit("started through the deprecated API")
    elif program.behaviour.dialect == "legacy" and given and "/" in pb.Any.FromString(given).type_url:
        sys.exit("type with url not found")


def listen(program: Program) -> str:
    """The address of the shim that serves this pod, started now if there is none."""
    spec = json.loads(Path("config.json").read_text())
    group = spec.get("annotations", {}).get("io.kubernetes.cri.sandbox-id", "") if program.behaviour.groups else ""
    name = os.path.normpath(f"{program.flags['-address']}/{program.flags['-namespace']}/{group or program.id}")
    path = f"{SOCKETS}/{hashlib.sha256(name.encode()).hexdigest()}"
    os.makedirs(SOCKETS, mode=0o711, exist_ok=True)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
        return f"unix://{path}"
    except OSError:
        Path(path).unlink(missing_ok=True)
    finally:
        probe.close()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen()
    os.set_inheritable(listening.fileno(), True)
    words = [str(program.path), *(word for flag in program.flags.items() for word in flag)]
    environment = {**os.environ, "FAKE_LISTENING": str(listening.fileno()), "FAKE_SOCKET": path}
    subprocess.Popen(
        words,
        env=environment,
        pass_fds=[listening.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return f"unix://{path}"


def delete(program: Program) -> None:
    program.note("delete", id=program.id, bundle=program.flags.get("-bundle", ""))
    fault = program.fault("delete")
    if fault[:1] == ["fail"]:
        sys.exit(" ".join(fault[1:]))
    answer = pb.DeleteResponse(exit_status=137)
    answer.exited_at.seconds = int(time.time())
    sys.stdout.buffer.write(answer.SerializeToString())


class Box:
    """A container, or a command in it."""

    def __init__(self, args: list[str], stdin: str, stdout: str, stderr: str) -> None:
        self.args = args
        self.paths = (stdin, stdout, stderr)
        self.ended = asyncio.Event()
        self.code = 0
        self.at = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        opened = []
        for path, flags in zip(self.paths, (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY, os.O_WRONLY), strict=True):
            opened.append(os.open(path or os.devnull, flags))
        if self.paths[0]:
            os.set_blocking(opened[0], True)
        try:
            self.process = subprocess.Popen(
                self.args, stdin=opened[0], stdout=opened[1], stderr=opened[2], preexec_fn=die_with_parent
            )
        finally:
            for fd in opened:
                os.close(fd)
        self.waiting = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        assert self.process is not None
        fd = os.pidfd_open(self.process.pid)
        await process.wait_pidfd(fd)
        os.close(fd)
        self.end(self.process.wait())

    def end(self, code: int) -> None:
        self.code = code if code >= 0 else 128 - code
        self.at = time.time_ns()
        self.ended.set()

    def kill(self, signum: int) -> None:
        if self.process is None:
            self.end(-signum)
        elif self.process.poll() is None:
            self.process.send_signal(signum)

    def stamp(self) -> pb.Timestamp:
        return pb.Timestamp(seconds=self.at // 10**9, nanos=self.at % 10**9)

    def told(self, tells: dict[str, int]) -> pb.WaitResponse:
        answer = pb.WaitResponse(exit_status=tells.get("Wait", self.code), exited_at=self.stamp())
        answer.exited_at.seconds = tells.get("ended", answer.exited_at.seconds)
        return answer


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Shim:
    """The one that serves."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.behaviour = program.behaviour
        self.boxes: dict[tuple[str, str], Box] = {}
        self.server = ttrpc.Server(self.answer)
        self.over = asyncio.Event()
        self.events: ttrpc.Client | None = None

    async def run(self) -> None:
        log = os.open("log", os.O_WRONLY)  # waits for a reader
        os.write(log, b"the fake shim is here\n")
        os.chdir("/")
        self.events = await ttrpc.connect(os.environ["TTRPC_ADDRESS"], timeout=5)
        await self.server.start(socket.socket(fileno=int(os.environ["FAKE_LISTENING"])))
        await self.over.wait()
        await self.server.close()
        await self.events.close()
        Path(os.environ["FAKE_SOCKET"]).unlink(missing_ok=True)

    async def answer(self, service: str, method: str, payload: bytes) -> bytes:
        known = service == f"containerd.task.v{self.behaviour.version}.Task" or (
            service == SANDBOX and self.behaviour.sandbox
        )
        serve = getattr(self, f"do_{method.lower()}", None) if known else None
        if serve is None:
            raise ttrpc.Refused(ttrpc.UNIMPLEMENTED, f"{service}/{method}")
        fault = self.program.fault(method)
        if fault and fault[0] != "after":
            await self.fail(fault)
        reply: bytes = await serve(payload)
        if fault and fault[0] == "after":
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGKILL)
        return reply

    async def fail(self, fault: list[str]) -> None:
        transports = [one._transport for one in self.server._connections if one._transport is not None]
        match fault[0]:
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "never":
                await asyncio.Event().wait()
            case "slow":
                await asyncio.sleep(float(fault[1]))
            case "refuse":
                raise ttrpc.Refused(int(fault[1]), fault[2])
            case "garbage" | "huge":
                for transport in transports:
                    transport.write(b"\xff" * 64 if fault[0] == "garbage" else bytes.fromhex("7fffffff 00000001 02 00"))
                await asyncio.Event().wait()
            case "eof":
                for transport in transports:
                    transport.abort()
                self.over.set()

    async def tell(self, topic: str, event: Any) -> None:
        assert self.events is not None
        envelope = pb.Envelope(namespace="k8s.io", topic=topic)
        envelope.event.value = event.SerializeToString()
        request = pb.ForwardRequest(envelope=envelope)
        with contextlib.suppress(ttrpc.Closed, ttrpc.Refused, TimeoutError):
            await self.events.call(EVENTS, "Forward", request.SerializeToString(), timeout=5)

    def box(self, id: str, exec_id: str = "") -> Box:
        found = self.boxes.get((id, exec_id))
        if found is None:
            raise ttrpc.Refused(ttrpc.NOT_FOUND, "container not created")
        return found

    # Tasks

    async def do_connect(self, payload: bytes) -> bytes:
        pid = self.behaviour.tells.get("Connect", os.getpid())
        return pb.ConnectResponse(shim_pid=pid).SerializeToString()

    async def do_create(self, payload: bytes) -> bytes:
        request = pb.CreateTaskRequest.FromString(payload)
        spec = json.loads(Path(request.bundle, "config.json").read_text())
        mounts = [[one.type, one.source, list(one.options)] for one in request.rootfs]
        if "resources" not in spec["linux"]:
            os._exit(2)  # as Kata's Go runtime, which follows the pointer without a look
        facts = {"options": request.options.type_url, "root": spec["root"], "hostname": spec.get("hostname")}
        self.program.note("Create", id=request.id, rootfs=mounts, **facts)
        args = spec["process"]["args"]
        sandbox = spec.get("annotations", {}).get("io.kubernetes.cri.container-type") == "sandbox"
        self.boxes[request.id, ""] = Box(
            ["sleep", "1000000"] if sandbox else args, request.stdin, request.stdout, request.stderr
        )
        pid = self.behaviour.tells.get("Create", os.getpid())
        return pb.CreateTaskResponse(pid=pid).SerializeToString()

    async def do_start(self, payload: bytes) -> bytes:
        request = pb.ProcessRequest.FromString(payload)
        self.program.note("Start", id=request.id, exec=request.exec_id)
        box = self.box(request.id, request.exec_id)
        try:
            await box.start()
        except FileNotFoundError as error:
            raise ttrpc.Refused(2, f'exec: "{box.args[0]}": executable file not found in $PATH') from error
        self.watching = asyncio.ensure_future(self.watch(request.id, request.exec_id, box))
        return pb.StartResponse(pid=os.getpid()).SerializeToString()

    async def watch(self, id: str, exec_id: str, box: Box) -> None:
        """Tell its end, and what comes before that."""
        await box.ended.wait()
        if self.behaviour.oom and not exec_id:
            await self.tell("/tasks/oom", pb.TaskOOM(container_id=id))
        exit = pb.TaskExit(container_id=id, id=exec_id or id, exit_status=box.code)
        await self.tell("/tasks/exit", exit)
        if self.behaviour.reordered:
            await self.tell("/tasks/start", exit)

    async def do_exec(self, payload: bytes) -> bytes:
        request = pb.ExecProcessRequest.FromString(payload)
        self.box(request.id)
        args = json.loads(request.spec.value)["args"]
        self.boxes[request.id, request.exec_id] = Box(args, request.stdin, request.stdout, request.stderr)
        return b""

    async def do_wait(self, payload: bytes) -> bytes:
        request = pb.ProcessRequest.FromString(payload)
        box = self.box(request.id, request.exec_id)
        await box.ended.wait()
        return box.told(self.behaviour.tells).SerializeToString()

    async def do_state(self, payload: bytes) -> bytes:
        request = pb.ProcessRequest.FromString(payload)
        box = self.box(request.id, request.exec_id)
        status = pb.STOPPED if box.ended.is_set() else pb.CREATED if box.process is None else pb.RUNNING
        return pb.StateResponse(
            id=request.id, pid=os.getpid(), status=status, exit_status=box.code, exited_at=box.stamp()
        ).SerializeToString()

    async def do_kill(self, payload: bytes) -> bytes:
        request = pb.KillRequest.FromString(payload)
        self.program.note("Kill", id=request.id, signal=request.signal, all=request.all)
        box = self.box(request.id, request.exec_id)
        if box.ended.is_set():
            raise ttrpc.Refused(2, "process already finished")
        for (id, exec_id), one in list(self.boxes.items()):
            if id == request.id and (request.all or exec_id == request.exec_id):  # all is all of it, as Kata has it
                one.kill(request.signal)
        return b""

    async def do_delete(self, payload: bytes) -> bytes:
        request = pb.ProcessRequest.FromString(payload)
        self.program.note("Delete", id=request.id, exec=request.exec_id)
        box = self.box(request.id, request.exec_id)
        if not box.ended.is_set():
            raise ttrpc.Refused(9, "it is running")
        del self.boxes[request.id, request.exec_id]
        return pb.DeleteResponse(exit_status=box.code, exited_at=box.stamp()).SerializeToString()

    async def do_update(self, payload: bytes) -> bytes:
        request = pb.UpdateTaskRequest.FromString(payload)
        self.program.note("Update", id=request.id, resources=json.loads(request.resources.value))
        return b""

    async def do_stats(self, payload: bytes) -> bytes:
        metrics = pb.MetricsV2()
        metrics.memory.usage = 12345
        value = pb.Any(type_url="io.containerd.cgroups.v2.Metrics", value=metrics.SerializeToString())
        return pb.StatsResponse(stats=value).SerializeToString()

    async def do_closeio(self, payload: bytes) -> bytes:
        self.program.note("CloseIO")
        return b""

    async def do_resizepty(self, payload: bytes) -> bytes:
        request = pb.ResizePtyRequest.FromString(payload)
        self.program.note("ResizePty", width=request.width, height=request.height)
        return b""

    async def do_shutdown(self, payload: bytes) -> bytes:
        self.program.note("Shutdown")
        if not self.boxes and not self.behaviour.stays:
            asyncio.get_running_loop().call_later(0.01, self.over.set)
        return b""

    # The sandbox

    async def do_createsandbox(self, payload: bytes) -> bytes:
        request = pb.CreateSandboxRequest.FromString(payload)
        options = pb.RuntimeOptions.FromString(request.options.value)
        self.program.note(
            "CreateSandbox",
            id=request.sandbox_id,
            netns=request.netns_path,
            config=options.config_path,
            annotations=dict(request.annotations),
        )
        return b""

    async def do_startsandbox(self, payload: bytes) -> bytes:
        self.program.note("StartSandbox")
        return pb.StartSandboxResponse(pid=os.getpid()).SerializeToString()

    async def do_stopsandbox(self, payload: bytes) -> bytes:
        self.program.note("StopSandbox")
        return b""

    async def do_shutdownsandbox(self, payload: bytes) -> bytes:
        self.program.note("ShutdownSandbox")
        asyncio.get_running_loop().call_later(0.01, self.over.set)
        return b""


if __name__ == "__main__":
    main()
