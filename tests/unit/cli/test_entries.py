"""Logs as they are printed, and followed to their container's end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from ropewalk.cli import entries
from ropewalk.client import logs, values
from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.spec.container import ContainerMetadata

TIME = "2023-11-14T22:13:20.123456789Z"
LOG = f"{TIME} stdout F one\n{TIME} stderr F two\n{TIME} stdout P thr\n{TIME} stdout F ee\n"


def status(path: Path | str, state: values.ContainerState = values.ContainerState.RUNNING) -> values.ContainerStatus:
    return values.ContainerStatus(id="c", metadata=ContainerMetadata("main"), state=state, log_path=str(path))


class FakeClient:
    """Tells what is put into `answers`, one after the other; the last again and again."""

    def __init__(self, *answers: values.ContainerStatus | RopewalkError) -> None:
        self.answers = list(answers)

    async def container_status(self, id: str) -> values.ContainerStatus:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, RopewalkError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "POLL", 0.001)
    monkeypatch.setattr(entries, "FIRST", 0.001)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_text(LOG)
    return path


async def test_each_stream_on_its_own(log: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    await entries.show(status(log), entries.Printer())
    assert capsysbinary.readouterr() == (b"one\nthree\n", b"two\n")


async def test_times_once_per_line(log: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    await entries.show(status(log), entries.Printer(timestamps=True), tail=2)
    assert capsysbinary.readouterr().out == f"{TIME} three\n".encode()


async def test_json_lines(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await entries.show(status(log), entries.Printer(as_json=True), tail=1)
    told = json.loads(capsys.readouterr().out)
    assert told == {"time": TIME, "stream": "stdout", "partial": False, "log": "ee"}


def test_since(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    printer = entries.Printer(since=TIME)
    for time, content in (
        ("2023-11-14T22:13:20.123456788Z", b"a"),
        (TIME, b"b"),
        ("2023-11-14T22:13:20.123456788+00:00", b"c"),
        ("2023-11-14T23:13:20.123456789+01:00", b"d"),
        ("2023-11-14T22:13:20.2Z", b"e"),
    ):
        printer.write(logs.Entry(time, "stdout", False, content))
    assert capsysbinary.readouterr().out == b"b\nd\ne\n"


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000000000Z"),
        ("2023-11-14T22:13:20.5-01:30", "2023-11-14T23:43:20.500000000Z"),
        ("no time", "no time"),
    ],
)
def test_times_that_sort(time: str, utc: str) -> None:
    assert entries.comparable(time) == utc


async def test_following_ends_with_the_container(log: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The daemon may be away meanwhile; what was written before the end is shown."""
    ended = status(log, values.ContainerState.EXITED)
    client = FakeClient(status(log), RopewalkError("away", kind=Kind.UNAVAILABLE), status(log), ended)
    assert await entries.follow(cast(Any, client), status(log), entries.Printer()) == ended
    assert capsysbinary.readouterr().out == b"one\nthree\n"


async def test_following_a_container_that_is_removed(log: Path) -> None:
    client = FakeClient(NotFound("gone"))
    assert await entries.follow(cast(Any, client), status(log), entries.Printer()) is None


async def test_what_is_wrong_with_a_log(tmp_path: Path) -> None:
    with pytest.raises(WrongState, match="has no log"):
        await entries.show(status(""), entries.Printer())
    with pytest.raises(NotFound, match="does not exist"):
        await entries.show(status(tmp_path / "nosuch"), entries.Printer())


async def test_an_error_ends_the_watch_and_nothing_stays_behind(log: Path) -> None:
    client = FakeClient(WrongState("x"))
    with pytest.raises(WrongState):
        await entries.follow(cast(Any, client), status(log), entries.Printer())
    assert len(asyncio.all_tasks()) == 1
