"""The only place that starts processes: posix_spawn(3), so the cost does not grow with the daemon.

glibc's posix_spawn shares the parent's memory until exec (CLONE_VM | CLONE_VFORK). It is called by ctypes because
os.posix_spawn lacks "close all else" and the directory. Every child is reaped by its pidfd from the event loop,
whether or not somebody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ropewalk import errors
from ropewalk.linux import libc, pidfd, thread

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

POSIX_SPAWN_SETPGROUP = 0x02
POSIX_SPAWN_SETSIGDEF = 0x04  # spawn.h
POSIX_SPAWN_SETSIGMASK = 0x08
POSIX_SPAWN_SETSID = 0x80

UNKNOWN = 255  # the code of a child that the kernel reaped, because we were started with SIGCHLD ignored

_OBJECT = 512  # posix_spawnattr_t has 336 bytes in glibc, the file actions 80
_PIPE = 65536  # one read


started: set[int] = set()  # pids of children that are not reaped yet
orphans: dict[int, int] = {}  # codes of others' children that were reaped before `adopt` came, while one is expected
_expected = 0

_add_close_from = getattr(libc.libc, "posix_spawn_file_actions_addclosefrom_np", None)


class Process:
    """A child. `wait` gives its exit code; it is reaped even if nobody calls it."""

    def __init__(self, pid: int, argv: Sequence[str]) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.code: int | None = None
        self._loop = asyncio.get_running_loop()
        self._waiters: list[asyncio.Future[int]] = []
        try:
            self._pidfd = pidfd.open(pid)
        except ProcessLookupError:
            self.code = orphans.pop(pid, UNKNOWN)
        else:
            started.add(pid)
            self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        try:
            result = pidfd.reap(self._pidfd)
        except ChildProcessError:
            self.code = UNKNOWN
        else:
            if result is None:
                return
            self.code = exit_code(result)
        started.discard(self.pid)
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(self.code)

    async def wait(self) -> int:
        """The exit code, -n after signal n. Any number of callers; cancelling one changes nothing."""
        if self.code is not None:
            return self.code
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            self._waiters.remove(waiter)

    def kill(self, signum: int = signal.SIGKILL, *, group: bool = False) -> None:
        """Send a signal, to its whole process group if `group` (it leads one).
        Nothing happens once it has been reaped."""
        if self.code is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.pid, signum)
            else:
                pidfd.send_signal(self._pidfd, signum)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Mapping[int, int] | None = None,
    cwd: str = "/",
    session: bool = True,
    mounts: Callable[[], None] | None = None,
) -> Process:
    """Start argv[0] (looked up in PATH if it has no slash) and return at once, after its exec.

    The child has `env` (PATH is added if absent), /dev/null where a descriptor is None, `pass_fds` (child's number
    to ours) and nothing else of ours open, default signal actions, no blocked signals, and a session of its own, or
    with `session=False` a process group of its own in ours. Needs a running loop. OSError names the program: ENOENT,
    EACCES, ENOEXEC.
    """
    environment = {"PATH": PATH, **(env or {})}
    program = look_up(argv[0], environment["PATH"])
    wanted = {0: stdin, 1: stdout, 2: stderr, **(pass_fds or {})}
    pid = ctypes.c_int()
    arguments = _strings([os.fsencode(argument) for argument in argv])
    variables = _strings([os.fsencode(f"{key}={value}") for key, value in environment.items()])
    with _file_actions(wanted, cwd) as actions:

        def start() -> int:
            path = os.fsencode(program)
            return int(
                libc.libc.posix_spawn(ctypes.byref(pid), path, actions, _attributes(session), arguments, variables)
            )

        def start_apart(prepare: Callable[[], None]) -> int:
            prepare()
            return start()

        if mounts is None:
            error = start()
        else:
            error = thread.apart(functools.partial(start_apart, mounts), unshare=libc.CLONE_NEWNS)
    if error:
        if error == errno.ENOENT and not os.path.isdir(cwd):
            raise OSError(error, os.strerror(error), cwd)
        raise OSError(error, os.strerror(error), program)
    try:
        return Process(pid.value, argv)
    except OSError:  # no descriptor left for it: a child that nobody holds must not stay
        os.kill(pid.value, signal.SIGKILL)
        os.waitpid(pid.value, 0)
        raise


def exit_code(result: os.waitid_result) -> int:
    """-n for signal n."""
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


@contextlib.contextmanager
def expecting_orphan() -> Iterator[None]:
    """While this lasts, whoever reaps an orphan (orphans.py) leaves its code for `adopt`."""
    global _expected
    _expected += 1
    try:
        yield
    finally:
        _expected -= 1
        if not _expected:
            orphans.clear()


def reaped(result: os.waitid_result) -> None:
    """An orphan was reaped that nobody had adopted yet."""
    if _expected:
        orphans[result.si_pid] = exit_code(result)


def adopt(pid: int, argv: Sequence[str]) -> Process:
    """A process whose parent, a child of ours, has ended: as subreaper (orphans.py) we are its parent now."""
    return Process(pid, argv)


def look_up(name: str, path: str = PATH) -> str:
    """The program that a name means, as execvp(3) looks; a path is itself. FileNotFoundError if there is none."""
    if "/" in name:
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory, name)
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise FileNotFoundError(errno.ENOENT, f"not found in {path}", name)


def _strings(values: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """char *const[]: NULL at the end."""
    for value in values:
        if b"\0" in value:
            raise ValueError(f"NUL in {value!r}")
    return (ctypes.c_char_p * (len(values) + 1))(*values, None)


@functools.cache
def _attributes(session: bool) -> ctypes.Array[ctypes.c_char]:
    """Default actions for every signal (Python ignores SIGPIPE; a child would inherit that), none blocked."""
    attributes = ctypes.create_string_buffer(_OBJECT)
    signals = ctypes.create_string_buffer(128)  # sigset_t
    _checked(libc.libc.posix_spawnattr_init(attributes))
    _checked(libc.libc.posix_spawnattr_setsigmask(attributes, signals))
    libc.libc.sigfillset(signals)
    _checked(libc.libc.posix_spawnattr_setsigdefault(attributes, signals))
    flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
    flags |= POSIX_SPAWN_SETSID if session else POSIX_SPAWN_SETPGROUP  # posix_spawnattr_init sets group 0: its own
    _checked(libc.libc.posix_spawnattr_setflags(attributes, ctypes.c_short(flags)))
    return attributes


@contextlib.contextmanager
def _file_actions(wanted: Mapping[int, int | None], cwd: str) -> Iterator[ctypes.Array[ctypes.c_char]]:
    """What the child does before exec: directory, descriptors, close the others. Sources below the highest target
    are first duplicated above it, so that no step overwrites what a later one needs."""
    top = max(wanted) + 1
    actions = ctypes.create_string_buffer(_OBJECT)
    call = libc.libc
    _checked(call.posix_spawn_file_actions_init(actions))
    copies: list[int] = []
    try:
        for source in {fd for fd in wanted.values() if fd is not None and fd < top}:
            copies.append(_duplicate_above(source, top))
            wanted = {target: copies[-1] if fd == source else fd for target, fd in wanted.items()}
        for target in range(top):
            source_fd = wanted.get(target)
            if source_fd is not None:
                _checked(call.posix_spawn_file_actions_adddup2(actions, source_fd, target))
            elif target in wanted:
                _checked(call.posix_spawn_file_actions_addopen(actions, target, b"/dev/null", os.O_RDWR, 0))
            else:
                _checked(call.posix_spawn_file_actions_addclose(actions, target))
        _close_from(actions, top)
        _checked(call.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(cwd)))
        yield actions
    finally:
        for fd in copies:
            os.close(fd)
        call.posix_spawn_file_actions_destroy(actions)


def _duplicate_above(fd: int, lowest: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def _close_from(actions: ctypes.Array[ctypes.c_char], lowest: int) -> None:
    """glibc 2.34 closes in the child. Elsewhere what is open now is named; later ones are close-on-exec (PEP 446)."""
    if _add_close_from is not None:
        _checked(_add_close_from(actions, lowest))
        return
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest and not _closes_on_exec(int(name)):
            _checked(libc.libc.posix_spawn_file_actions_addclose(actions, int(name)))


def _closes_on_exec(fd: int) -> bool:
    try:
        return not os.get_inheritable(fd)
    except OSError:
        return True  # the descriptor that listed the directory


def _checked(error: int) -> None:
    """posix_spawn's functions return the error number."""
    if error:
        raise OSError(error, os.strerror(error))


class Completed(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes


class Output:
    """A pipe for a child's output, read by the event loop: the first `limit` bytes are kept, the rest is read and
    dropped, so the writer never stands still. Give `fd` to spawn, then call `started`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._read_fd, self.fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        asyncio.get_running_loop().add_reader(self._read_fd, self._read, _PIPE)

    def started(self) -> None:
        """The child has its end; close ours."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read(self, size: int) -> None:
        try:
            chunk = os.read(self._read_fd, size)
        except BlockingIOError:
            return
        self._kept += chunk[: self._limit - len(self._kept)]
        if not chunk:
            self._close_read_end()

    def finish(self) -> bytes:
        """What was written so far, and close. For after the exit: a grandchild may hold the other end open, so the
        end of the pipe is not waited for. One read takes all that a pipe can hold (pipe(7): 16 pages)."""
        if self._read_fd >= 0:
            self._read(16 * os.sysconf("SC_PAGESIZE"))
        self.close()
        return bytes(self._kept)

    def close(self) -> None:
        self.started()
        self._close_read_end()

    def _close_read_end(self) -> None:
        if self._read_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1


async def run(
    argv: Sequence[str],
    *,
    input: bytes = b"",
    timeout: float,
    limit: int = 1 << 20,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
) -> Completed:
    """Run a program to its end, and return when it ends (not when its children let go of the pipes). At most
    `limit` bytes of each stream are kept. After `timeout` seconds its process group is killed, Kind.TIMEOUT;
    cancelled: killed too. A code other than 0 is the caller's to judge.

    It leads a process group, not a session: where sched_autogroup is on (and the daemon is in the root cgroup) a new
    session costs a short program 5 ms on a busy node."""
    with contextlib.ExitStack() as stack:
        stack.callback((stdout := Output(limit)).close)
        stack.callback((stderr := Output(limit)).close)
        with _memory_file(input) as stdin:
            process = spawn(argv, env=env, stdin=stdin, stdout=stdout.fd, stderr=stderr.fd, cwd=cwd, session=False)
        stack.callback(process.kill, group=True)
        stdout.started()
        stderr.started()
        try:
            async with asyncio.timeout(timeout):
                code = await process.wait()
        except TimeoutError:
            raise errors.RopewalkError(
                f"{' '.join(argv)} did not end within {timeout:g} s: killed", kind=errors.Kind.TIMEOUT
            ) from None
        return Completed(code, stdout.finish(), stderr.finish())


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[int | None]:
    """Standard input as a file in memory: of any size, and nobody has to feed it. None for no content."""
    if not content:
        yield None
        return
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
