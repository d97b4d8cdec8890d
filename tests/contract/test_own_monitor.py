"""ropewalk-monitor alone: disks that are full, daemons that are killed, attachers that sleep, gVisor's way of starting,
containerd's binary:// logger. What conmon promises, too, is in test_monitor.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from ropewalk import steps
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount, process
from ropewalk.runtimes.monitors import monitor as monitors
from ropewalk.runtimes.monitors import own
from ropewalk.runtimes.monitors.monitor import Monitor
from tests.fakes.monitored import Line, Maker, read_all, written
from tools import trace

GLIBC = 0x1_8000_0000  # signals 32 and 33 are its own, and ignored after the daemon's posix_spawn(3)
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts disks, and is the container's root"),
    pytest.mark.parametrize("monitor", [own.NAME, "sanitized"], indirect=True),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for half a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    mount.mount("tmpfs", str(place), "tmpfs", 0, "size=512k")
    yield place
    mount.umount_all(str(place))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


# Full disks


async def test_a_full_disk_blocks_nothing_and_is_told(script: Maker, small_disk: Path) -> None:
    """Lines that found no room are counted; the log says how many, at their place, when there is room again."""
    one = script("seq 100000; touch wrote; read x; seq 100001 100003; exit 3", stdin=True)
    one.log_path = small_disk / "0.log"
    one.launch = replace(one.launch, log_path=str(one.log_path))
    await one.create()
    await one.start()
    await until((one.bundle / "wrote").exists)  # it does not stand still
    attached = one.attach()
    whole = one.log_path.read_bytes()
    before, cut = whole.count(b"\n"), not whole.endswith(b"\n")
    os.truncate(one.log_path, 0)
    await attached.write(b"\n")
    assert await one.end() == 3
    await attached.close()
    content = one.log_path.read_bytes()
    if cut:
        content = content.partition(b"\n")[2]
    one.log_path.write_bytes(content)
    log = one.log()
    (told,) = [line for line in log if line.stream == "stderr"]
    lost = int(told.content.split()[1])
    assert told.content == b"ropewalk-monitor: %d lines were lost: No space left on device" % lost
    kept = [int(line.content) for line in log if line.stream == "stdout"]
    first = before + cut + 1
    assert kept[: log.index(told)] == list(range(first, first + log.index(told)))
    assert kept[log.index(told) :] == list(range(first + log.index(told) + lost, 100004))
    assert lost > 0


async def test_the_end_is_told_on_a_full_disk(script: Maker, small_disk: Path) -> None:
    one = script("exit 42")
    one.monitor.exits = str(small_disk)
    await one.create()
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    await one.start()
    assert await one.end() == 42


# Attachers


async def test_a_sleeping_attacher_is_dropped_and_holds_nothing_up(script: Maker) -> None:
    one = script("read a; read b; seq 3000000; echo done; exec sleep 30", stdin=True)
    await one.create()
    sleeper, reader = one.attach(), one.attach()
    for each in (sleeper, reader):
        await each.write(b"\n")  # passed on by a monitor that has accepted it
    await one.start()
    await one.logged(b"stdout F done\n")
    with pytest.raises(RopewalkError, match="too slowly") as caught:
        await read_all(sleeper)
    assert caught.value.kind is Kind.EXHAUSTED
    await sleeper.close()
    await reader.close()
    os.kill(one.task.pid, signal.SIGKILL)
    assert await one.end() == 137


async def test_more_attachers_than_it_takes(script: Maker) -> None:
    one = script("i=0; while [ $i -lt 16 ]; do read x; i=$((i+1)); done; echo here; exit 0", stdin=True)
    await one.create()
    attached = [one.attach() for _ in range(20)]
    for some in attached[:16]:
        await some.write(b"\n")
    await one.start()
    found = [(await read_all(some))["stdout"] for some in attached]
    assert found.count(b"here\n") == 16
    for some in attached:
        await some.close()


async def test_an_empty_packet_is_not_the_end_of_input(script: Maker) -> None:
    one = script("cat", stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    attached = one.attach()
    attached.socket.send(b"")
    await asyncio.sleep(0.05)
    await attached.write(b"after\n")
    await attached.close_stdin()
    assert (await read_all(attached))["stdout"] == b"after\n"
    assert await one.end() == 0
    await attached.close()


async def test_who_leaves_output_unread_has_been_heard(script: Maker) -> None:
    """Its end is a reset then, which is told before what it has written."""
    one = script("read x; echo unread; cat > got; exit 6", stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    attached = one.attach()
    await attached.write(b"\n")
    await one.logged(b"unread")
    os.kill(one.task.monitor_pid, signal.SIGSTOP)
    await attached.write(b"last words")
    await attached.close()
    os.kill(one.task.monitor_pid, signal.SIGCONT)
    assert await one.end() == 6
    assert (one.bundle / "got").read_bytes() == b"last words"


NOISY = "read x; exec 3<&0; (cat <&3 >&2; touch over) & until [ -e over ]; do echo noise; done; exit 6"


@pytest.mark.parametrize("payload", [NOISY, "read x; seq 3000000; cat; exit 6"], ids=["gone", "too slow"])
async def test_the_end_of_input_is_not_missed_because_output_cannot_be_sent(script: Maker, payload: str) -> None:
    """Its first attacher has left, or is let go because it does not keep up."""
    one = script(payload, stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    attached = one.attach()
    await attached.write(b"\n")
    if payload is NOISY:
        await one.logged(b"noise")
        os.kill(one.task.monitor_pid, signal.SIGSTOP)
        await attached.write(b"last words\n")
        await attached.close()
        os.kill(one.task.monitor_pid, signal.SIGCONT)
    assert await one.end() == 6
    await attached.close()
    assert written(one.log(), "stderr") == (b"last words\n" if payload is NOISY else b"")


async def test_those_who_have_left_take_no_place_while_input_stands_still(script: Maker) -> None:
    one = script(
        "echo here; until [ -e say ]; do sleep 0.01; done; while :; do echo late; sleep 0.01; done", stdin=True
    )
    await one.create()
    await one.start()
    await one.logged(b"here")  # it has let go of what the container got
    before = trace.open_files(one.task.monitor_pid)
    typing = one.attach()
    await typing.write(b"x" * 100_000)  # more than its pipe and we hold
    left = [one.attach() for _ in range(15)]
    await until(lambda: trace.open_files(one.task.monitor_pid) == before + 16)
    for each in left:
        await each.close()
    late = one.attach()
    (one.bundle / "say").touch()
    chunk = await late.read()
    assert chunk is not None
    assert chunk.data.startswith(b"late\n")
    for each in (late, typing):
        await each.close()
    os.kill(one.task.pid, signal.SIGKILL)
    assert await one.end() == 137


# Its own end, and the daemon's


async def test_words_of_a_runtime_that_takes_its_time_to_fail_are_kept(script: Maker) -> None:
    """For longer than the silence after which buffers are given back."""
    one = script("", {"broken": "no such device", "dying": "2.5"})
    with pytest.raises(monitors.RuntimeFailed, match=r"^no such device$"):
        await one.create()


async def test_told_to_go_in_the_middle_of_a_create_it_undoes_it(script: Maker) -> None:
    one = script("", {"slow": "600"})
    making = asyncio.ensure_future(one.create())
    name, root = os.fsencode(own.NAME), b"--root=%s" % os.fsencode(one.bundle)
    await until(lambda: any(process.program_name(pid) not in (name, b"") for pid in process.find(root)))
    (monitor,) = [pid for pid in process.find(root) if process.program_name(pid) == name]
    os.kill(monitor, signal.SIGTERM)
    with pytest.raises(RopewalkError, match="ended without a word"):
        await making
    await until(lambda: not process.find(root))
    assert sorted(os.listdir(one.bundle)) == ["deleted", "go", "payload", "slow"]
    assert os.listdir(one.monitor.exits) == []


async def test_a_command_of_which_a_read_brings_one_half(script: Maker) -> None:
    one = script("exec sleep 600")
    await one.create()
    moved = one.log_path.rename(one.log_path.with_suffix(".1"))
    os.kill(one.task.monitor_pid, signal.SIGSTOP)
    control = os.open(one.bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK)
    os.write(control, b"1 1 1\n" * 682)  # 4 bytes less than it reads at once
    os.write(control, b"2 0 0\n")
    os.close(control)
    os.kill(one.task.monitor_pid, signal.SIGCONT)
    await until(one.log_path.exists)
    await one.start()
    os.kill(one.task.pid, signal.SIGKILL)
    assert await one.end() == 137
    moved.unlink()


async def test_a_cancelled_create_is_undone(script: Maker) -> None:
    """The runtime is killed at its work, its `delete` is run, and the bundle is as before."""
    one = script("", {"slow": "20"})
    making = asyncio.ensure_future(one.create())
    await until(lambda: process.find(b"--root=%s" % os.fsencode(one.bundle)))
    await asyncio.sleep(0.1)
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    await until(lambda: not process.find(os.fsencode(one.bundle)))
    assert sorted(os.listdir(one.bundle)) == ["deleted", "go", "payload", "slow"]
    assert os.listdir(one.monitor.exits) == []


async def test_without_a_word_nothing_is_created(script: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """conmon would take the daemon's end for "go"."""

    def die(point: str) -> None:
        if point == "monitor:placed":
            raise InterruptedError

    monkeypatch.setattr(steps, "checkpoint", die)
    one = script("")
    with pytest.raises(InterruptedError):
        await one.create()
    await until(lambda: not process.find(os.fsencode(one.bundle)))
    assert sorted(os.listdir(one.bundle)) == ["go", "payload"]
    assert os.listdir(one.monitor.exits) == []


async def test_told_to_go_it_goes(script: Maker) -> None:
    one = script("echo line; exec sleep 30")
    await one.create()
    await one.start()
    await one.logged(b"line")
    os.kill(one.task.monitor_pid, signal.SIGTERM)
    with pytest.raises(AssertionError, match="no exit file"):
        await one.end()
    assert os.listdir(one.monitor.exits) == []


async def test_what_the_container_gets_and_others_do_not(script: Maker) -> None:
    one = script("ls -l /proc/self/fd | wc -l; umask; grep -E 'Sig(Blk|Ign)' /proc/self/status")
    inherited = os.umask(0o022)
    os.umask(inherited)
    await one.create()
    assert {stat.S_IMODE(os.lstat(one.bundle / name).st_mode) for name in ("attach", "ctl")} == {0o600}
    opened = {
        os.readlink(f"/proc/{one.task.monitor_pid}/fd/{fd}") for fd in os.listdir(f"/proc/{one.task.monitor_pid}/fd")
    }
    assert not [
        target
        for target in opened
        if not target.startswith(
            ("/dev/null", "/memfd", "pipe", "socket", "anon", str(one.bundle), str(one.log_path), one.monitor.exits)
        )
    ]
    await one.start()
    assert await one.end() == 0
    descriptors, umask, *signals = written(one.log()).decode().splitlines()
    assert int(descriptors) == 5  # the three, that of ls, and the first line
    assert int(umask, 8) == inherited
    blocked, ignored = (int(line.split()[1], 16) for line in signals)
    assert blocked == 0
    assert ignored & ~GLIBC == 0


@pytest.mark.parametrize(("kills", "met"), [("2", True), ("0", False), ("", None)])
async def test_the_oom_killer_is_told(script: Maker, kills: str, met: bool | None) -> None:
    """Without a word in the file, as where the cgroup is gone, nothing is known."""
    one = script("true")
    (one.bundle / "events").write_text(f"oom 3\noom_kill {kills}\noom_group_kill 0\n" if kills else "")
    one.launch = replace(one.launch, memory_events=str(one.bundle / "events"))
    assert await one.run() == 0
    assert one.monitor.met_oom(str(one.bundle)) is met


async def test_a_terminal_that_nobody_has_open_for_a_while(script: Maker) -> None:
    """It reads as hung up then, with a driver that nobody holds open."""
    one = script(
        "exec <&- >&- 2>&-; touch closed; until test -e again; do sleep 0.01; done; echo back >/dev/tty", tty=True
    )
    await one.create()
    await one.start()
    await until((one.bundle / "closed").exists)
    (one.bundle / "again").touch()
    assert await one.end() == 0
    assert one.log() == [Line("stdout", "F", b"back")]


# gVisor: the streams at `start`, the code from `wait`


async def test_a_runtime_that_takes_the_streams_at_start(script: Maker) -> None:
    one = script("echo out; echo err >&2; cat; exit 7", {"gvisor": ""}, stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    await one.start()  # of a daemon that does not know
    attached = one.attach()
    await attached.write(b"typed\n")
    await attached.close_stdin()
    assert await one.end() == 7
    assert sorted(one.log()) == [
        Line("stderr", "F", b"err"),
        Line("stdout", "F", b"out"),
        Line("stdout", "F", b"typed"),
    ]
    await attached.close()


def waiters(monitor: int) -> list[int]:
    return [pid for pid in process.children(monitor) if b"wait" in process.command_line(pid)]


async def test_a_killed_wait_is_run_again(script: Maker) -> None:
    one = script("until [ -e end ]; do sleep 0.05; done; exit 8", {"gvisor": ""})
    await one.create()
    await one.start()
    async with asyncio.timeout(30):
        while not (waiting := waiters(one.task.monitor_pid)):  # it may not have come to its exec yet
            await asyncio.sleep(0.01)
    os.kill(waiting[0], signal.SIGKILL)
    (one.bundle / "end").touch()
    assert await one.end() == 8


async def test_a_sandbox_that_was_killed_ends_its_containers(script: Maker) -> None:
    one = script("sleep 50", {"gvisor": ""})
    await one.create()
    await one.start()
    os.kill(int((one.bundle / "container").read_text()), signal.SIGKILL)
    assert await one.end() == 137


# containerd's binary:// logger


@pytest.mark.parametrize("shuffled", [False, True])
async def test_a_logger_for_shims(monitor: Monitor, tmp_path: Path, *, shuffled: bool) -> None:
    pairs = [("log", str(tmp_path / "0.log")), ("dir", str(tmp_path))]
    words = [word for pair in (reversed(pairs) if shuffled else pairs) for word in pair]
    out, err, ready = os.pipe(), os.pipe(), os.pipe()
    fds = {3: out[0], 4: err[0], 5: ready[1]}
    high = {target: os.dup2(fd, 200 + target) for target, fd in fds.items()}
    shell = ";".join(f"exec {target}<&{fd} {fd}<&-" for target, fd in high.items())
    logger = await asyncio.create_subprocess_exec(
        "bash", "-c", f'{shell}; exec "$0" "$@"', monitor.path, *words, pass_fds=list(high.values())
    )
    for fd in (*fds.values(), *high.values()):
        os.close(fd)
    assert await asyncio.to_thread(os.read, ready[0], 1) == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attached:
        before = trace.open_files(logger.pid)
        attached.connect(str(tmp_path / "attach"))
        await until(lambda: trace.open_files(logger.pid) > before)  # it has accepted
        os.write(out[1], b"one\ntwo")
        os.write(err[1], b"three\n")
        assert {attached.recv(100), attached.recv(100)} == {b"\2one\ntwo", b"\3three\n"}
    if shuffled:  # a shim ends it so
        logger.send_signal(signal.SIGTERM)
    os.close(out[1])
    os.close(err[1])
    assert await logger.wait() == 0
    lines = [line.split(" ", 1)[1] for line in (tmp_path / "0.log").read_text().splitlines()]
    assert sorted(lines) == ["stderr F three", "stdout F one", "stdout P two"]
    os.close(ready[0])
