"""Endpoints that are not there, and several things done at once."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ropewalk.cli import endpoint, main
from ropewalk.client import cri
from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError, WrongState


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(RopewalkError, match=rf"no socket {tmp_path}/s; start `ropewalk serve`") as caught:
        endpoint.probe(f"unix://{tmp_path}/s")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    monkeypatch.setenv("ROPEWALK_ADDRESS", str(tmp_path / "s"))
    with pytest.raises(RopewalkError, match="nobody answers") as caught:
        endpoint.call("", lambda client: client.version())
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_socket_of_somebody_else() -> None:
    assert endpoint.refused("/s", PermissionError(errno.EACCES, "no")).kind is Kind.DENIED
    assert "longer" in str(endpoint.refused("/s", OSError("longer than a socket's path may be")))


@pytest.mark.parametrize(
    "command", [["ps"], ["pods"], ["images"], ["info"], ["pull", "x"], ["logs", "x"], ["rm", "x"], ["stats"]]
)
def test_every_command_says_so_with_the_same_kind(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main.ropewalk, [*command, "--address", str(tmp_path / "s")])
    assert isinstance(result.exception, RopewalkError)
    assert result.exception.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize("command", [["run"], ["exec", "x"]])
def test_commands_that_return_another_ones_code_say_125(command: list[str], tmp_path: Path) -> None:
    verb, *rest = command
    result = CliRunner().invoke(main.ropewalk, [verb, "--address", str(tmp_path / "s"), *rest, "x"])
    assert result.exit_code == 125
    assert "no socket" in result.output


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Background jobs of a shell ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_quiet(tmp_path: Path) -> None:
    async def interrupted(client: cri.Client) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(SystemExit) as caught:
            endpoint.call(str(tmp_path / "s"), interrupted)
    assert caught.value.code == 130


def test_what_is_no_utf_8_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with pytest.raises(Invalid, match=r"'a\\udcff' is not UTF-8"):
            endpoint.call(str(tmp_path / "s"), lambda client: client.image("a\udcff"))


async def test_one_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    async def act(name: str) -> str:
        if name == "b":
            raise WrongState("b runs")
        return name

    assert await endpoint.each(["a", "b", "c", "a"], act) == (["a", "c"], 5)
    assert capsys.readouterr().err == "ropewalk: b runs\n"
    assert await endpoint.each([], act) == ([], 0)


async def test_at_most_so_many_at_once() -> None:
    now: list[str] = []

    async def act(name: str) -> int:
        now.append(name)
        await asyncio.sleep(0)
        seen = len(now)
        now.remove(name)
        return seen

    done, _ = await endpoint.each("abcdef", act, at_once=2)
    assert max(done) == 2


async def test_what_is_gone_has_no_answer() -> None:
    async def ask(id: str) -> str:
        if id == "b":
            raise NotFound("no b")
        if id == "c":
            raise WrongState("c")
        return id

    assert await endpoint.answers(["a", "b"], ask) == {"a": "a"}
    with pytest.raises(WrongState):
        await endpoint.answers(["a", "c"], ask)
