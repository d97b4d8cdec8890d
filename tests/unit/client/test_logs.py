"""The CRI's log format, read whole, by tail, and followed through a rotation."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ropewalk.client import logs

TIME = "2026-08-22T10:00:00.123456789Z"


def line(text: str, stream: str = "stdout", tag: str = "F") -> bytes:
    return f"{TIME} {stream} {tag} {text}\n".encode()


def test_an_entry() -> None:
    assert logs.parse(line("a b  c")[:-1]) == logs.Entry(TIME, "stdout", False, b"a b  c")
    assert logs.parse(line("", "stderr", "P:x")[:-1]) == logs.Entry(TIME, "stderr", True, b"")
    assert logs.parse(b"x stdout F \xff\xfe") == logs.Entry("x", "stdout", False, b"\xff\xfe")


@pytest.mark.parametrize("text", [b"", b"garbage", b"t stdout F", b"t stdin F x", b"t stdout Z x"])
def test_what_is_no_entry(text: bytes) -> None:
    assert logs.parse(text) is None


def test_output_is_what_was_written() -> None:
    parts = [logs.Entry("t", "stdout", True, b"long "), logs.Entry("t", "stdout", False, b"line")]
    assert b"".join(part.output for part in parts) == b"long line\n"


def test_lines_survive_any_split() -> None:
    stream = b"".join(line(str(i)) for i in range(3))
    for cut in range(len(stream)):
        splitter = logs.Splitter()
        assert splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) == stream.splitlines()


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 101, 1000])
@pytest.mark.parametrize("width", [1, 900])
async def test_tail(tmp_path: Path, count: int, width: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(line(f"{i}-" + "x" * width) for i in range(100)))
    found = [entry async for entry in logs.read(str(path), tail=count)]
    assert [int(entry.content.split(b"-")[0]) for entry in found] == list(range(100))[100 - min(count, 100) :]


async def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        [entry async for entry in logs.read(str(tmp_path / "absent"))]


async def test_following_a_rotation_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(line("0"))
    writer = path.open("ab", buffering=0)
    ended = False
    seen: list[bytes] = []

    async def follow() -> None:
        async for entry in logs.read(str(path), follow=True, ended=lambda: ended, poll=0.001):
            seen.append(entry.content)

    async def until(count: int) -> None:
        async with asyncio.timeout(20):
            while len(seen) < count:
                await asyncio.sleep(0.001)

    task = asyncio.create_task(follow())
    await until(1)
    writer.write(line("1")[:10])  # an entry comes in two writes
    await asyncio.sleep(0.005)
    writer.write(line("1")[10:])
    await until(2)
    os.rename(path, tmp_path / "0.log.20260822-100000")
    await asyncio.sleep(0.005)
    writer.write(line("2"))  # the monitor has not reopened yet
    await until(3)
    writer.write(line("3"))
    writer.close()
    path.write_bytes(line("4"))
    await until(5)
    with path.open("ab") as file:
        file.write(line("5"))
    ended = True
    async with asyncio.timeout(20):
        await task
    assert seen == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_log_that_does_not_exist_yet_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "log"
    asyncio.get_running_loop().call_later(0.003, path.write_bytes, line("x"))
    async with asyncio.timeout(20):
        assert (await anext(logs.read(str(path), follow=True, poll=0.001))).content == b"x"
