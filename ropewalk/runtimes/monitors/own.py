"""ropewalk-monitor (csrc/monitor.c) as the monitor; its essay has the protocol.

It has one descriptor of ours, a SEQPACKET socket: it waits there for a packet, so that it is in its cgroup before it
starts anything, and answers one. Where we are killed, or cancelled, before that answer, the monitor undoes by itself
what it began.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from ropewalk import ids, steps
from ropewalk.errors import Kind, RopewalkError, Unsupported, WrongState
from ropewalk.linux import inotify, process, spawn
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.monitors import logfile, monitor

NAME = "ropewalk-monitor"
SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), NAME)
DAEMON_FD = 3
ANSWER = 32768  # bytes of a packet: the runtime's words are the most of it
START = "3 0 0\n"
STARTED = "started"  # the file in the bundle that has the exit code of `start`
START_SECONDS = 60.0
PROTOCOL = 2  # of arguments, packets and files; csrc/monitor.c has it, too. Whoever changes one of them counts on
REINSTALL = "install ropewalk anew, which brings its monitor (in a checkout: ./dev setup), or correct `monitor`"


class OwnMonitor(monitor.Monitor):
    """`path` may be elsewhere than beside this file: for packagers, and to try another build."""

    def check(self, version: str) -> None:
        check(self.path, version)

    async def create(self, launch: monitor.Launch) -> Task:
        complaints = os.memfd_create("monitor-stderr")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                started = self._start(launch, complaints, theirs)
            steps.checkpoint("monitor:spawned")
            monitor_start = process.start_time(started.pid) or 0
            self.place(launch.cgroup, started.pid)
            steps.checkpoint("monitor:placed")
            with contextlib.suppress(BrokenPipeError):  # it has ended already: the answer tells
                ours.send(b"go")
            steps.checkpoint("monitor:going")
            packet = await _receive(ours, launch.id)
            pid = parse_answer(packet, os.pread(complaints, 4096, 0), launch.id)
        finally:
            ours.close()
            os.close(complaints)
        return Task(
            pid=pid, pid_start=process.start_time(pid) or 0, monitor_pid=started.pid, monitor_start=monitor_start
        )

    def _start(self, launch: monitor.Launch, complaints: int, theirs: socket.socket) -> spawn.Process:
        try:
            return spawn.spawn(
                arguments(self.path, self.exits, launch),
                stderr=complaints,
                pass_fds={DAEMON_FD: theirs.fileno()},
                cwd=launch.bundle,
            )
        except FileNotFoundError as error:
            raise RopewalkError(
                f"container {ids.short(launch.id)}: {error}",
                hint="build it with ./dev setup or 'pip install', or set monitor = \"conmon\"",
                kind=Kind.UNAVAILABLE,
            ) from error

    async def start(self, bundle: str, task: Task) -> None:
        """The file is there once `start` has ended; one that went well is not run again."""
        path = os.path.join(bundle, STARTED)
        if _read_code(path) == 0:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of an attempt that failed
        with inotify.Watch(bundle, inotify.IN_MOVED_TO) as watch:
            logfile.tell(os.path.join(bundle, "ctl"), START)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await logfile.appears(watch, STARTED, task.monitor_pid, task.monitor_start)
            except TimeoutError:
                text = (
                    f"container {ids.short(os.path.basename(bundle))}: `start` did not end within {START_SECONDS:g} s"
                )
                raise RopewalkError(text, kind=Kind.TIMEOUT) from None
        if not os.path.exists(path):
            raise WrongState("its monitor ended before it was started")
        if _read_code(path) != 0:
            raise monitor.RuntimeFailed("")


def check(path: str, version: str) -> None:
    """Unsupported if what says this of itself is another build, which does not know what it would be told."""
    if version.rpartition(", ")[2] != f"protocol {PROTOCOL}":
        raise Unsupported(f"{path} is {version!r}, and protocol {PROTOCOL} is needed", hint=REINSTALL)


def explain(id: str, said: str) -> RopewalkError:
    """`said`: its last words. Where they are its name it did not know its arguments."""
    if said.startswith(f"{NAME} "):
        text = f"its monitor is another build ({said.partition(chr(10))[0]}) and does not know what it was told"
        return Unsupported(f"container {ids.short(id)}: {text}", hint=REINSTALL)
    return RopewalkError(f"container {ids.short(id)}: its monitor: {said}")


def arguments(path: str, exits: str, launch: monitor.Launch) -> list[str]:
    """Its command line; "" ends a command."""
    create = [*launch.runtime, "create", "--bundle", launch.bundle]
    create += ["--pid-file", os.path.join(launch.bundle, "pid")]
    if launch.tty:
        create += ["--console-socket", launch.console]  # the whole path may be too long for a socket
    create.append(launch.id)
    undo = [*launch.runtime, "delete", "--force", launch.id]
    flags = "t" * launch.tty + "i" * launch.stdin + "o" * launch.stdin_once
    files = [
        launch.log_path,
        os.path.join(exits, launch.id),
        os.path.join(exits, f".{launch.id}"),
        launch.memory_events,
    ]
    argv = [path, "run", *files, flags, *create, "", *undo, ""]
    if launch.start_argv:
        argv += [*launch.start_argv, "", *launch.wait_argv, ""]
    return argv


def parse_answer(packet: bytes, complaints: bytes, id: str) -> int:
    """The container's pid. RuntimeFailed with the runtime's message; RopewalkError with the monitor's own: a full disk,
    mostly."""
    text = packet[1:].decode(errors="replace").strip()
    if packet.startswith(b"+"):
        return int(text)
    if packet.startswith(b"-"):
        raise monitor.RuntimeFailed(text)
    raise explain(id, complaints.decode(errors="replace").partition("\n")[0] or "it ended without a word")


async def _receive(ours: socket.socket, id: str) -> bytes:
    """Its packet, or b"" at its end."""
    try:
        async with asyncio.timeout(monitor.CREATE_SECONDS):
            return await asyncio.get_running_loop().sock_recv(ours, ANSWER)
    except ConnectionResetError:
        return b""
    except TimeoutError:
        raise RopewalkError(
            f"container {ids.short(id)}: the runtime did not create it within {monitor.CREATE_SECONDS:g} s",
            kind=Kind.TIMEOUT,
        ) from None


def was_started(bundle: str) -> bool:
    """Whether `start` has gone well."""
    return _read_code(os.path.join(bundle, STARTED)) == 0


def _read_code(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return None
