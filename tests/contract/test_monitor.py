"""The Monitor contract: what every monitor promises, tried on a runtime without containers (fakes/runtime.py)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import stat
from pathlib import Path

import pytest

from ropewalk.errors import WrongState
from ropewalk.linux import process
from ropewalk.runtimes.monitors.monitor import RuntimeFailed
from tests.fakes.monitored import Line, Maker, read_all, written

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
async def test_output_and_exit_code(script: Maker, end: str, code: int) -> None:
    one = script(f"echo out; echo err >&2; {end}")
    assert await one.run() == code
    assert sorted(one.log()) == [Line("stderr", "F", b"err"), Line("stdout", "F", b"out")]
    assert one.monitor.exited() == [one.id]
    one.monitor.forget(one.id)
    assert (one.monitor.exit(one.id), one.monitor.exited()) == (None, [])


async def test_without_a_log_output_is_dropped(script: Maker, tmp_path: Path) -> None:
    one = script("seq 100000; exit 3")
    one.launch = type(one.launch)(
        **{**{f: getattr(one.launch, f) for f in one.launch.__struct_fields__}, "log_path": ""}
    )
    assert await one.run() == 3
    assert one.log_path.read_bytes() == b""


async def test_the_log_has_what_was_written(script: Maker, tmp_path: Path) -> None:
    """Every byte, lines of every length, in any pieces."""
    chance = random.Random(5)
    lines = [
        chance.randbytes(chance.choice([0, 1, 80, 3000, 16384, 16385, 70000])).replace(b"\n", b"\0") for _ in range(300)
    ]
    (tmp_path / "data").write_bytes(b"\n".join(lines))
    one = script(f"cat {tmp_path}/data; dd if={tmp_path}/data bs=777 >&2 2>/dev/null")
    assert await one.run() == 0
    log = one.log()
    assert written(log) == written(log, "stderr") == (tmp_path / "data").read_bytes()
    assert max(len(line.content) for line in log) <= 16384


async def test_many_short_lines(script: Maker) -> None:
    one = script("seq 100000; seq 100000 >&2")
    assert await one.run() == 0
    expected = "".join(f"{number}\n" for number in range(1, 100001)).encode()
    assert written(one.log()) == written(one.log(), "stderr") == expected


async def test_an_unfinished_line_appears(script: Maker) -> None:
    one = script("printf 'password: '; read x; echo; printf end", stdin=True)
    await one.create()
    await one.start()
    await one.logged(b"stdout P password: \n")
    attached = one.attach()
    await attached.write(b"\n")
    assert await one.end() == 0
    await attached.close()
    assert written(one.log()) == b"password: \nend"


async def test_a_process_left_behind_does_not_delay_the_end(script: Maker) -> None:
    one = script("sleep 50 & echo $!; exit 4")
    assert await one.run() == 4
    left = int(written(one.log()))
    async with asyncio.timeout(30):
        while process.command_line(left) != [b"sleep", b"50"]:  # it may not have come to its exec yet
            await asyncio.sleep(0.01)


async def test_what_is_left_behind_may_write_for_ever(script: Maker) -> None:
    one = script("yes & yes >&2 & exit 4")
    assert await one.run() == 4


async def test_a_container_may_close_its_streams(script: Maker) -> None:
    one = script("echo last; exec >&- 2>&-; sleep 0.2; exit 9")
    assert await one.run() == 9
    assert one.log() == [Line("stdout", "F", b"last")]


async def test_a_refused_create_has_the_runtimes_words(script: Maker) -> None:
    one = script("", {"broken": "no such namespace\n"})
    with pytest.raises(RuntimeFailed, match="no such namespace"):
        await one.create()
    async with asyncio.timeout(30):
        while one.monitor.exited():  # it answers first, and takes back what it had made ready on its way out
            await asyncio.sleep(0.01)


# Attaching


async def test_attachers_get_all_output_and_the_end(script: Maker) -> None:
    one = script("read a; read b; echo out; echo err >&2; seq 10000; exit 2", stdin=True)
    await one.create()
    attached = [one.attach(), one.attach()]
    for each in attached:
        await each.write(b"\n")  # a monitor accepts when it comes to it, and has once it passes this on
    await one.start()
    for found in await asyncio.gather(*map(read_all, attached)):
        assert found["stdout"].startswith(b"out\n1\n2\n")
        assert found["stdout"].endswith(b"9999\n10000\n")
        assert found["stderr"] == b"err\n"
    assert await attached[0].exit() == 2
    for one_ in attached:
        await one_.close()
    with pytest.raises(WrongState):
        one.attach()


async def test_standard_input_once(script: Maker) -> None:
    """The first attacher's end of input is the container's."""
    one = script("cat; exit 6", stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    attached = one.attach()
    data = random.Random(1).randbytes(100_000)
    reading = asyncio.ensure_future(read_all(attached))
    await attached.write(data)
    await attached.close_stdin()
    assert (await reading)["stdout"] == data
    assert await one.end() == 6
    await attached.close()


async def test_standard_input_survives_attachers(script: Maker) -> None:
    one = script("read a; echo got $a; read b; echo got $b", stdin=True)
    await one.create()
    await one.start()
    for word in (b"first", b"second"):
        attached = one.attach()
        await attached.write(word + b"\n")
        await attached.close_stdin()
        await one.logged(b"got " + word)
        await attached.close()
    assert await one.end() == 0


async def test_input_waits_for_a_container_that_does_not_read(script: Maker) -> None:
    one = script("read x; echo ready; sleep 0.5; wc -c", stdin=True, stdin_once=True)
    await one.create()
    await one.start()
    first, second = one.attach(), one.attach()
    await first.write(b"\n")
    await one.logged(b"ready")
    writing = [asyncio.ensure_future(some.write(b"x" * 300_000)) for some in (first, second)]
    await asyncio.gather(*writing)
    await first.close_stdin()
    assert await one.end() == 0
    assert int(written(one.log()).split()[-1]) >= 300_000
    await first.close()
    await second.close()


async def test_without_standard_input_it_is_empty(script: Maker) -> None:
    one = script("cat; test -c /dev/stdin && exit 3")
    assert await one.run() == 3


async def test_a_terminal(script: Maker) -> None:
    one = script(
        "trap 'stty size; exit 5' WINCH; test -t 0 && echo ready >&2; while :; do sleep 0.05; done",
        tty=True,
        stdin=True,
    )
    await one.create()
    attached = one.attach()
    await one.start()
    await one.logged(b"stdout F ready")
    await attached.resize(132, 43)
    assert await one.end() == 5
    assert written(one.log()).replace(b"\r", b"") == b"ready\n43 132\n"
    await attached.close()


async def test_typing_on_a_terminal(script: Maker) -> None:
    one = script("read line; echo you typed $line", tty=True, stdin=True)
    await one.create()
    await one.start()
    attached = one.attach()
    await attached.write(b"hello\n")
    assert (await read_all(attached))["stdout"] == b"hello\r\nyou typed hello\r\n"
    assert await one.end() == 0
    await attached.close()


# The log file


async def test_rotation_loses_nothing(script: Maker) -> None:
    one = script("seq 200000")
    await one.create()
    await one.start()
    files = []
    for number in range(8):
        files.append(one.log_path.with_suffix(f".{number}"))
        os.rename(one.log_path, files[-1])
        try:
            await one.reopen()
        except WrongState:  # it has ended meanwhile
            os.rename(files.pop(), one.log_path)
            break
        await asyncio.sleep(0.01)
    assert await one.end() == 0
    lines = [line for path in (*files, one.log_path) for line in one.log(path)]
    assert written(lines) == "".join(f"{number}\n" for number in range(1, 200001)).encode()
    assert stat.S_IMODE(one.log_path.stat().st_mode) == 0o640


async def test_a_removed_log_directory_is_borne(script: Maker) -> None:
    one = script("read x; echo line; exit 4", stdin=True)
    await one.create()
    await one.start()
    shutil.rmtree(one.log_path.parent)
    with pytest.raises(FileNotFoundError):
        await one.reopen()
    attached = one.attach()
    await attached.write(b"\n")
    assert await one.end() == 4
    await attached.close()


async def test_a_log_path_that_is_a_link_is_not_followed_on_rotation(script: Maker, tmp_path: Path) -> None:
    one = script("read x; echo line", stdin=True)
    await one.create()
    await one.start()
    (tmp_path / "victim").write_text("untouched")
    os.rename(one.log_path, one.log_path.with_suffix(".old"))
    os.symlink(tmp_path / "victim", f"{one.log_path}.tmp")
    await one.reopen()
    attached = one.attach()
    await attached.write(b"\n")
    assert await one.end() == 0
    await attached.close()
    assert (tmp_path / "victim").read_text() == "untouched"
    assert one.log() == [Line("stdout", "F", b"line")]
