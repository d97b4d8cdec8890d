"""What a Sentry answers, and its processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from ropewalk.runtimes.drivers.runsc import sentry

TABLE = b"""UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         22        0         5         ?         10:38     20ms      sleep
0         23        0         1         ?         10:38     0s        sh
0         24        23        4         ?         10:38     0s        sh
0         26        22        0         ?         10:38     0s        sleep
0         27        24        0         ?         10:38     0s        PID 3 4
"""

ANSWER = b"""{"success":true,"err":"","result":{"event":{"type":"stats","id":"c1","data":{"cpu":{"usage":{"total":1}},
"memory":{"usage":{"limit":0,"usage":3342336,"failcnt":0}},"pids":{"current":2}}},"containerUsage":{"c1":70000000}}}"""


def test_processes_and_their_parents() -> None:
    assert sentry.parse_table(TABLE) == {22: 0, 23: 0, 24: 23, 26: 22, 27: 24}
    assert sentry.parse_table(b"") == {}


def test_descendants_parents_first() -> None:
    parents = sentry.parse_table(TABLE)
    assert sentry.descendants(parents, 23) == [23, 24, 27]
    assert sentry.descendants(parents, 99) == []
    assert sentry.descendants({1: 1}, 1) == [1]


@pytest.mark.parametrize("pieces", [[ANSWER], [ANSWER[:9], ANSWER[9:200], ANSWER[200:]]])
async def test_an_answer_ends_where_its_text_does(tmp_path: Path, pieces: list[bytes]) -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(msgspec.json.decode(await reader.read(4096)))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()  # the connection stays until the other side has enough
        writer.close()
        await writer.wait_closed()
        served.set()

    served = asyncio.Event()
    server = await asyncio.start_unix_server(serve, tmp_path / "runsc-pod.sock")
    async with server:
        found = await sentry.event(str(tmp_path), "pod", "c1")
        await served.wait()
    assert asked == [{"method": "containerManager.Event", "arg": "c1"}]
    assert found is not None
    assert (found.event.data.memory.usage.usage, found.event.data.pids.current) == (3342336, 2)
    assert found.container_usage == {"c1": 70000000}


async def test_no_sentry_no_answer(tmp_path: Path) -> None:
    assert await sentry.event(str(tmp_path), os.urandom(8).hex(), "c1") is None
