"""conmon(8) as the monitor.

Protocol (conmon 2.1.6, src/conmon.c): conmon blocks until a byte or end-of-file on the pipe _OCI_STARTPIPE, then runs
`RUNTIME create` and answers one JSON line on _OCI_SYNCPIPE: {"data": PID}, or {"data": -1, "message": ...}. With
--sync it forks no further, so the process that we spawn is the monitor. --full-attach puts its sockets and fifos
into the bundle. At the container's end it drains the pipes and renames `<exit dir>/<id>`, decimal text, into place.

End-of-file means "go": when the daemon is killed in between, a creator runs on without anyone. Whoever undoes the
create must end it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import msgspec
from msgspec import Struct

from ropewalk import ids, steps
from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.linux import cgroup, process, spawn
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.monitors import monitor

SYNC_FD = 3
START_FD = 4


class Answer(Struct, frozen=True):
    """The line on the sync pipe."""

    data: int
    message: str = ""


class Conmon(monitor.Monitor):
    """`sockets`: where a terminal's short-lived console socket is bound."""

    def __init__(self, path: str, *, exits: str, sockets: str, cgroups: cgroup.Cgroups) -> None:
        super().__init__(path, exits=exits, cgroups=cgroups)
        self.sockets = sockets

    async def create(self, launch: monitor.Launch) -> Task:
        if ":" in launch.log_path:
            text = f"log_path {launch.log_path!r} holds a colon"
            raise Invalid(text, hint="conmon separates driver and path by it: rename, or use ropewalk-monitor")
        complaints = os.memfd_create("conmon-stderr")
        answers, sync = os.pipe()
        gate, go = os.pipe()
        try:
            try:
                started = self._start(launch, complaints, sync, gate)
            finally:
                os.close(sync)  # while we hold it, its end is never seen
                os.close(gate)
            steps.checkpoint("monitor:spawned")
            monitor_start = process.start_time(started.pid) or 0
            self.place(launch.cgroup, started.pid)
            steps.checkpoint("monitor:placed")
            with contextlib.suppress(BrokenPipeError):  # it has ended already: `answers` tells
                os.write(go, b"\0")
            steps.checkpoint("monitor:going")
            line = await _read_line(answers, launch.id)
            pid = parse_answer(line, os.pread(complaints, 4096, 0), launch.id)
        finally:
            for fd in (complaints, answers, go):
                os.close(fd)
        return Task(
            pid=pid, pid_start=process.start_time(pid) or 0, monitor_pid=started.pid, monitor_start=monitor_start
        )

    def _start(self, launch: monitor.Launch, complaints: int, sync: int, gate: int) -> spawn.Process:
        environment = {"TMPDIR": self.sockets, "_OCI_SYNCPIPE": str(SYNC_FD), "_OCI_STARTPIPE": str(START_FD)}
        try:
            return spawn.spawn(
                arguments(self.path, self.exits, launch),
                env=environment,
                stderr=complaints,
                pass_fds={SYNC_FD: sync, START_FD: gate},
                cwd=launch.bundle,  # where it creates OOM
            )
        except FileNotFoundError as error:
            raise RopewalkError(
                f"container {ids.short(launch.id)}: {error}", hint="apt-get install conmon", kind=Kind.UNAVAILABLE
            ) from error

    async def start(self, bundle: str, task: Task) -> None:
        raise RopewalkError(
            "conmon cannot start what takes its streams at `start`", hint="use ropewalk-monitor", kind=Kind.UNSUPPORTED
        )


def arguments(path: str, exits: str, launch: monitor.Launch) -> list[str]:
    """conmon's command line."""
    runtime, *flags = launch.runtime
    argv = [path, "--api-version", "1", "--sync", "--full-attach", "--no-sync-log"]
    argv += ["-c", launch.id, "-u", launch.id, "-n", ids.short(launch.id), "-b", launch.bundle]
    argv += ["-p", os.path.join(launch.bundle, "pid"), "--exit-dir", exits, "-r", runtime]
    for flag in flags:
        argv += ["--runtime-arg", flag]
    argv += ["-l", f"k8s-file:{launch.log_path}" if launch.log_path else "off"]
    if launch.tty:
        argv.append("-t")
    if launch.stdin:
        argv.append("-i")
        if not launch.stdin_once:
            argv.append("--leave-stdin-open")
    return argv


def parse_answer(line: bytes, complaints: bytes, id: str) -> int:
    """The container's pid. RopewalkError with the runtime's message, or conmon's own words if it said nothing."""
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError:
        said = (line + complaints).decode(errors="replace").strip() or "without a word"
        raise RopewalkError(f"container {ids.short(id)}: conmon ended: {said}") from None
    if answer.data <= 0:
        raise monitor.RuntimeFailed(answer.message)
    return answer.data


async def _read_line(fd: int, id: str) -> bytes:
    """Up to a line feed or end-of-file."""
    os.set_blocking(fd, False)
    loop = asyncio.get_running_loop()
    complete = loop.create_future()
    line = bytearray()

    def readable() -> None:
        chunk = os.read(fd, 65536)
        line.extend(chunk)
        if (not chunk or b"\n" in chunk) and not complete.done():
            complete.set_result(None)

    loop.add_reader(fd, readable)
    try:
        async with asyncio.timeout(monitor.CREATE_SECONDS):
            await complete
    except TimeoutError:
        raise RopewalkError(
            f"container {ids.short(id)}: the runtime did not create it within {monitor.CREATE_SECONDS:g} s",
            kind=Kind.TIMEOUT,
        ) from None
    finally:
        loop.remove_reader(fd)
    return bytes(line)
