from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sys

import pytest

from ropewalk import errors
from ropewalk.linux import process, spawn

LIST_FDS = """
import os
for n in os.listdir("/proc/self/fd"):
    if os.path.exists(f"/proc/self/fd/{n}"):
        print(n, os.stat(f"/proc/self/fd/{n}").st_ino)
"""


async def output(argv: list[str], **options: object) -> str:
    collected = spawn.Output(1 << 20)
    child = spawn.spawn(argv, stdout=collected.fd, **options)  # type: ignore[arg-type]
    collected.started()
    assert await child.wait() == 0
    return collected.finish().decode()


async def test_codes_and_signals() -> None:
    assert await spawn.spawn(["true"]).wait() == 0
    assert await spawn.spawn(["sh", "-c", "exit 42"]).wait() == 42
    assert await spawn.spawn(["sh", "-c", "kill -TERM $$"]).wait() == -signal.SIGTERM


async def test_what_cannot_start_names_the_program_or_the_directory() -> None:
    with pytest.raises(FileNotFoundError, match="not found in") as caught:
        spawn.spawn(["no-such-program"])
    assert caught.value.filename == "no-such-program"
    with pytest.raises(FileNotFoundError):
        spawn.spawn(["/no/such/program"])
    with pytest.raises(PermissionError):
        spawn.spawn(["/etc/passwd"])
    with pytest.raises(FileNotFoundError) as caught:
        spawn.spawn(["true"], cwd="/no/such/directory")
    assert caught.value.filename == "/no/such/directory"
    with pytest.raises(ValueError, match="NUL"):
        spawn.spawn(["true", "a\0b"])


@pytest.mark.parametrize("old_libc", [False, True])
async def test_the_child_has_the_descriptors_it_was_given_and_no_others(
    old_libc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old_libc:  # glibc before 2.34, musl
        monkeypatch.setattr(spawn, "_add_close_from", None)
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    first, second = (os.memfd_create(name) for name in ("first", "second"))
    try:
        seen = await output([sys.executable, "-ISc", LIST_FDS], pass_fds={3: second, 6: first})
        inodes = dict(line.split() for line in seen.splitlines())
        assert inodes["3"] == str(os.fstat(second).st_ino)
        assert inodes["6"] == str(os.fstat(first).st_ino)
        assert set(inodes) == {"0", "1", "2", "3", "6"}
    finally:
        for fd in (leak, first, second):
            os.close(fd)


async def test_descriptors_may_trade_places() -> None:
    one, two = (os.memfd_create(name) for name in ("one", "two"))
    numbers = {one: os.fstat(one).st_ino, two: os.fstat(two).st_ino}
    try:
        seen = await output([sys.executable, "-ISc", LIST_FDS], pass_fds={one: two, two: one})
        inodes = dict(line.split() for line in seen.splitlines())
        assert inodes[str(one)] == str(numbers[two])
        assert inodes[str(two)] == str(numbers[one])
    finally:
        os.close(one)
        os.close(two)


async def test_the_child_starts_clean() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        status = await output(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    blocked, ignored = (int(line.split()[1], 16) for line in status.splitlines())
    assert blocked == 0
    assert ignored & (1 << (signal.SIGPIPE - 1)) == 0  # Python ignores it
    assert await output(["env"]) == f"PATH={spawn.PATH}\n"
    assert await output(["env"], env={"A": "b", "PATH": "/bin:/usr/bin"}) == "PATH=/bin:/usr/bin\nA=b\n"
    assert await output(["pwd"]) == "/\n"
    assert await output(["pwd"], cwd="/proc") == "/proc\n"


async def test_a_session_of_its_own_unless_told_otherwise() -> None:
    own = spawn.spawn(["sleep", "60"])
    shared = spawn.spawn(["sleep", "60"], session=False)
    assert process.session(own.pid) == own.pid
    assert process.session(shared.pid) == os.getsid(0)
    assert (os.getpgid(own.pid), os.getpgid(shared.pid)) == (own.pid, shared.pid)
    own.kill()
    shared.kill(group=True)
    assert {await own.wait(), await shared.wait()} == {-signal.SIGKILL}
    own.kill()


async def test_no_zombie_stays_even_if_nobody_waits() -> None:
    child = spawn.spawn(["true"])
    waiting = asyncio.ensure_future(child.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(20):
        while process.stat(child.pid) is not None:
            await asyncio.sleep(0.001)
    assert child.code == 0
    assert await child.wait() == 0


async def test_a_child_that_the_kernel_reaps_ends_too() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert await spawn.spawn(["true"]).wait() == spawn.UNKNOWN
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_run_collects_both_streams_and_feeds_input_of_any_size() -> None:
    text = os.urandom(300_000)
    assert await spawn.run(["sh", "-c", "cat; echo no >&2; exit 3"], input=text, timeout=5) == (3, text, b"no\n")
    assert await spawn.run(["cat"], timeout=5) == (0, b"", b"")


async def test_run_keeps_the_limit_and_drops_the_rest() -> None:
    done = await spawn.run(["head", "-c", "1000000", "/dev/zero"], timeout=5, limit=10)
    assert done == (0, bytes(10), b"")


async def test_run_returns_when_the_program_ends_not_when_the_pipe_does() -> None:
    done = await spawn.run(["sh", "-c", "sleep 60 & echo hi $!"], timeout=20)
    assert done.stdout.startswith(b"hi ")
    os.kill(int(done.stdout.split()[1]), signal.SIGKILL)


async def test_run_kills_the_whole_group_on_its_deadline_and_when_cancelled() -> None:
    for cancel in (False, True):
        mark = f"ropewalk-{os.urandom(8).hex()}"
        script = f"sh -c 'sleep 61; :' {mark} & wait"
        running = asyncio.ensure_future(spawn.run(["sh", "-c", script], timeout=60 if cancel else 0.1))
        if cancel:
            while not process.find(mark.encode()):
                await asyncio.sleep(0.001)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            with pytest.raises(errors.RopewalkError, match=r"did not end within 0\.1 s") as caught:
                await running
            assert caught.value.kind is errors.Kind.TIMEOUT
        async with asyncio.timeout(20):
            while process.find(mark.encode()):
                await asyncio.sleep(0.001)


async def test_no_descriptor_is_left_behind() -> None:
    await spawn.run(["true"], input=b"x", timeout=5)
    before = set(os.listdir("/proc/self/fd"))
    await spawn.run(["true"], input=b"x", timeout=5)
    with pytest.raises(OSError):
        await spawn.run(["no-such-program"], input=b"x", timeout=5)
    assert set(os.listdir("/proc/self/fd")) <= before  # what earlier tests left to the garbage may go meanwhile


async def test_a_large_parent_is_not_copied() -> None:
    """After a fork each page of the parent faults at its next write; a child that shares its memory leaves it alone."""
    ballast = bytearray(64 << 20)
    ballast[::4096] = b"x" * (len(ballast) // 4096)
    await spawn.spawn(["true"]).wait()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ballast[::4096] = b"y" * (len(ballast) // 4096)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < len(ballast) // 4096 // 4


async def test_nothing_of_a_run_stays_open_that_had_no_descriptor_for_its_second_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await spawn.run(["true"], timeout=5)
    pipes = iter([os.pipe()])

    def pipe() -> tuple[int, int]:
        made = next(pipes, None)
        if made is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return made

    monkeypatch.setattr(os, "pipe", pipe)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many open files"):
        await spawn.run(["true"], timeout=5)
    assert len(before - set(os.listdir("/proc/self/fd"))) >= 2  # both ends of the first stream's
