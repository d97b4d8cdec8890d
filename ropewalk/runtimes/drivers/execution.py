"""Running a command inside a container and collecting its output (ExecSync): the runtime is run directly, no monitor.

It returns when the command exits, not when its pipes end: what it left in the background keeps running and gets
SIGPIPE if it writes on. A runtime that copies the streams itself (runc) would wait for their end, so it is told to
detach: it gives the streams away and ends, and the command is ours (linux/orphans.py).

crun answers 255 without a word when its child dies before it has become the command: by the OOM killer, or with its
container. A command may answer 255, too. But crun writes the pid file only once the child was ready for its exec, so
without a pid no command has run.

A command that must be ended may have forked, changed sessions and been re-parented to the container's init, where
neither parents nor sessions name it any more. So what it starts carries a *mark*: the soft RLIMIT_RTTIME (setrlimit(2):
microseconds of CPU for real-time tasks) is set to a number that nobody else has, some decades. It is inherited by
every child, through exec too, on every kernel; /proc/PID/limits shows it. Limit: a process that sets this resource
limit itself escapes and lives until its container ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup, process, spawn
from ropewalk.runtimes.drivers import command
from ropewalk.runtimes.handler import ExecResult
from ropewalk.runtimes.oci import build

PROCESS_FD = 4
PID_FD = 5
UNSAID = 255  # crun's code where it has no message
KILL_SECONDS = 10.0
REAP_SECONDS = 0.5
UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY as the OCI runtime spec writes it
HIGHEST_MARK = 1 << 60
LABEL = b"Max realtime timeout"


async def run(
    runtime: command.Command,
    cgroups: cgroup.Cgroups,
    id: str,
    path: str,
    description: dict[str, Any],
    *,
    timeout: float,
    limit: int,
    pid_file: str = "",
) -> ExecResult:
    """`description`: the OCI process object; `path`: the container's cgroup; `pid_file`: for a runtime that must
    detach, a path of its own. See Handler.exec."""
    mark = new_mark()
    with contextlib.ExitStack() as stack:
        began = stack.enter_context(memory_file("pid"))
        options = ["--pid-file", pid_file or f"/proc/self/fd/{PID_FD}"]
        if pid_file:
            options.append("--detach")
            stack.enter_context(spawn.expecting_orphan())
            stack.callback(forget, pid_file)
        log, child, outputs = start(
            runtime, id, marked(description, mark), limit, stack, options, {} if pid_file else {PID_FD: began}
        )
        async with within(timeout, id, description, lambda: end(cgroups, path, child, mark=mark)):
            code = await child.wait()
            if pid_file and not code:
                child = adopt(pid_file, description)
                code = await child.wait()
                code = code if code >= 0 else 128 - code
        result = collected(id, code, log, outputs, limit)
        if code == UNSAID and not pid_file and not os.fstat(began).st_size:
            text = f"container {ids.short(id)}: exec: {description['args'][0]!r} was killed before it began"
            raise RopewalkError(text, hint="the container was out of memory, or ended at that moment")
        return result


@contextlib.asynccontextmanager
async def within(
    timeout: float, id: str, description: dict[str, Any], end: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """Whoever waits inside does so for `timeout` seconds (0: for ever); then, or if the caller leaves, `end` takes the
    command away."""
    try:
        async with asyncio.timeout(timeout or None):
            yield
    except (TimeoutError, asyncio.CancelledError) as error:
        await asyncio.shield(asyncio.ensure_future(end()))
        if isinstance(error, asyncio.CancelledError):
            raise
        text = f"container {ids.short(id)}: command {description['args'][0]!r} did not end within {timeout:g} s"
        raise RopewalkError(text, hint="it and its children were killed", kind=Kind.TIMEOUT) from None


def collected(id: str, code: int, log: int, outputs: Iterable[spawn.Output], limit: int) -> ExecResult:
    """What a command that has ended leaves. Raises what the runtime says in its log instead of running it."""
    stdout, stderr = (output.finish() for output in outputs)
    if code and (message := command.parse_log(os.pread(log, command.LOG_LIMIT, 0))):
        raise command.failure(id, "exec", message)
    if code < 0:
        raise RopewalkError(f"container {ids.short(id)}: exec: the runtime was ended by signal {-code}")
    return ExecResult(code=code, stdout=stdout, stderr=stderr[: limit - len(stdout)])


def start(
    runtime: command.Command,
    id: str,
    description: dict[str, Any],
    limit: int,
    stack: contextlib.ExitStack,
    options: Sequence[str],
    pass_fds: Mapping[int, int],
) -> tuple[int, spawn.Process, list[spawn.Output]]:
    """The runtime's log, its process, and the readers of both streams; `stack` closes what is ours. `options`: of its
    verb exec, which get `pass_fds`."""
    log = stack.enter_context(memory_file("oci-log"))
    specification = stack.enter_context(memory_file("oci-process", build.encode(description)))
    argv = [*runtime.prefix(f"/proc/self/fd/{command.LOG_FD}"), "exec", "--process", f"/proc/self/fd/{PROCESS_FD}"]
    outputs = [spawn.Output(limit) for _ in range(2)]
    for output in outputs:
        stack.callback(output.close)
    child = spawn.spawn(
        [*argv, *options, id],
        stdout=outputs[0].fd,
        stderr=outputs[1].fd,
        pass_fds={command.LOG_FD: log, PROCESS_FD: specification, **pass_fds},
        session=False,
    )
    for output in outputs:
        output.started()
    return log, child, outputs


def adopt(pid_file: str, description: dict[str, Any]) -> spawn.Process:
    with open(pid_file, encoding="ascii") as file:
        return spawn.adopt(int(file.read()), description["args"])


def forget(pid_file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(pid_file)


@contextlib.contextmanager
def memory_file(name: str, content: bytes = b"") -> Iterator[int]:
    """memfd_create(2): a file without a name that a child opens as /proc/self/fd/N."""
    fd = os.memfd_create(name)
    try:
        if content:
            os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def new_mark() -> int:
    """Below what this process may set, and unlike any other's."""
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    highest = HIGHEST_MARK if hard == resource.RLIM_INFINITY else min(hard, HIGHEST_MARK)
    return max(1, highest - secrets.randbits(40))


def marked(description: dict[str, Any], mark: int) -> dict[str, Any]:
    """The process object with the mark among its resource limits."""
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    limits = [one for one in description.get("rlimits", []) if one["type"] != "RLIMIT_RTTIME"]
    own = {"type": "RLIMIT_RTTIME", "soft": mark, "hard": UNLIMITED if hard == resource.RLIM_INFINITY else hard}
    return {**description, "rlimits": [*limits, own]}


def read_mark(limits: bytes) -> int | None:
    """The soft RLIMIT_RTTIME in the text of /proc/PID/limits; None if it is unlimited, or the process is gone."""
    for line in limits.splitlines():
        if line.startswith(LABEL):
            soft = line.removeprefix(LABEL).split()[0]
            return int(soft) if soft.isdigit() else None
    return None


def carries(pid: int, mark: int) -> bool:
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            return read_mark(file.read()) == mark
    except (FileNotFoundError, ProcessLookupError):
        return False


async def end(cgroups: cgroup.Cgroups, path: str, child: spawn.Process, *, mark: int) -> None:
    """Kill all in the container that carries the mark. The runtime then reaps what it started and ends: killed before,
    it would leave zombies to the node's init, and a container cannot end before each is reaped. It is killed only if
    it stays, and then it may have started something meanwhile. RopewalkError if some do not die."""
    await kill_marked(cgroups, path, mark)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REAP_SECONDS):
            await child.wait()
    child.kill()
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await child.wait()
    except TimeoutError:
        raise RopewalkError(
            f"the runtime of a timed-out command does not die: {child.pid}", kind=Kind.TIMEOUT
        ) from None
    await kill_marked(cgroups, path, mark)


async def kill_marked(cgroups: cgroup.Cgroups, path: str, mark: int) -> None:
    """Until nothing in the cgroup carries the mark. RopewalkError if some do not die."""
    left: list[int] = []
    try:
        async with asyncio.timeout(KILL_SECONDS):
            while left := [pid for pid in cgroups.processes(path) if carries(pid, mark)]:
                await asyncio.gather(*(_kill(pid, mark) for pid in left))
    except TimeoutError:
        raise RopewalkError(f"processes {left} of a timed-out command do not die", kind=Kind.TIMEOUT) from None


async def _kill(pid: int, mark: int) -> None:
    fd = process.open_pidfd(pid, process.start_time(pid) or 0)
    if fd is None:
        return
    try:
        if carries(pid, mark):  # looked at again: now the descriptor says that it is this process
            process.send_signal(fd, signal.SIGKILL)
            await process.wait_pidfd(fd)
    finally:
        os.close(fd)
