"""conmon's command line, its answer, its exit files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk.errors import Invalid, RopewalkError
from ropewalk.linux import cgroup
from ropewalk.runtimes.handler import Exit
from ropewalk.runtimes.monitors import conmon, monitor

ID = "c" * 64
LAUNCH = monitor.Launch(id=ID, bundle="/b", runtime=["/usr/bin/crun", "--root=/r"], cgroup="/m", log_path="/l/0.log")


def test_the_whole_command_line() -> None:
    assert conmon.arguments("conmon", "/exits", LAUNCH) == [
        *("conmon", "--api-version", "1", "--sync", "--full-attach", "--no-sync-log"),
        *("-c", ID, "-u", ID, "-n", ID[:13], "-b", "/b", "-p", "/b/pid", "--exit-dir", "/exits"),
        *("-r", "/usr/bin/crun", "--runtime-arg", "--root=/r", "-l", "k8s-file:/l/0.log"),
    ]


@pytest.mark.parametrize(("left", "met"), [("oom", True), ("spared", False), ("", None)])
def test_what_a_monitor_saw_of_the_oom_killer(tmp_path: Path, left: str, met: bool | None) -> None:
    own = conmon.Conmon("conmon", exits=str(tmp_path), sockets="", cgroups=cgroup.detect())
    if left:
        (tmp_path / left).touch()
    assert own.met_oom(str(tmp_path)) is met


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"log_path": ""}, ["-l", "off"]),
        ({"tty": True}, ["-t"]),
        ({"stdin": True}, ["-i", "--leave-stdin-open"]),
        ({"stdin": True, "stdin_once": True}, ["-i"]),
    ],
)
def test_options_of_streams(changes: dict[str, Any], last: list[str]) -> None:
    argv = conmon.arguments("conmon", "/exits", replace(LAUNCH, **changes))
    assert argv[-len(last) :] == last


def test_an_answer_is_a_pid_or_the_runtimes_words() -> None:
    assert conmon.parse_answer(b'{"data": 8682}\n', b"", ID) == 8682
    with pytest.raises(monitor.RuntimeFailed, match="no such file"):
        conmon.parse_answer(b'{"data": -1, "message": "no such file\\n"}\n', b"", ID)


async def test_a_colon_in_a_log_path_is_refused() -> None:
    """conmon separates driver and path by it."""
    fake: Any = type("Cgroups", (), {"controllers": lambda self: frozenset()})()
    watcher = conmon.Conmon("conmon", exits="/e", sockets="/s", cgroups=fake)
    with pytest.raises(Invalid, match="colon"):
        await watcher.create(replace(LAUNCH, log_path="/a:b"))


@pytest.mark.parametrize(
    ("line", "complaints", "words"),
    [(b"", b"", "without a word"), (b"", b"[conmon:e]: bad", "bad"), (b"x", b"y", "xy")],
)
def test_a_monitor_that_ends_without_an_answer(line: bytes, complaints: bytes, words: str) -> None:
    with pytest.raises(RopewalkError, match=words) as caught:
        conmon.parse_answer(line, complaints, ID)
    assert ID[:13] in caught.value.message


def test_exit_files(tmp_path: Path) -> None:
    fake: Any = type("Cgroups", (), {"controllers": lambda self: frozenset()})()
    monitor = conmon.Conmon("conmon", exits=str(tmp_path), sockets="/s", cgroups=fake)
    assert monitor.exit(ID) is None
    (tmp_path / ID).write_text("")
    assert monitor.exit(ID) is None
    (tmp_path / ID).write_text("137")
    os.utime(tmp_path / ID, ns=(1, 1234567890123456789))
    assert monitor.exit(ID) == Exit(code=137, at=1234567890123456789)
    assert monitor.exited() == [ID]
    monitor.forget(ID)
    monitor.forget(ID)
    assert monitor.exit(ID) is None
