"""The mark by which a command's processes are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers import command, execution
from ropewalk.runtimes.handler import ExecResult

LIMITS = b"""Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max realtime priority     0                    0
Max realtime timeout      1152921504606846975  unlimited            us
"""


def test_the_mark_is_read_from_limits() -> None:
    assert execution.read_mark(LIMITS) == 1152921504606846975
    assert execution.read_mark(LIMITS.replace(b"1152921504606846975", b"unlimited")) is None
    assert execution.read_mark(b"") is None


def test_the_kernel_writes_the_line_so() -> None:
    assert execution.LABEL in Path("/proc/self/limits").read_bytes()


def test_marks_differ_and_replace_a_limit_of_the_same_kind() -> None:
    assert execution.new_mark() != execution.new_mark()
    files = {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 10}
    old = {"type": "RLIMIT_RTTIME", "soft": 1, "hard": 1}
    description = {"args": ["true"], "rlimits": [files, old]}
    marked = execution.marked(description, 77)
    assert [(one["type"], one["soft"]) for one in marked["rlimits"]] == [("RLIMIT_NOFILE", 10), ("RLIMIT_RTTIME", 77)]
    assert description["rlimits"] == [files, old]


def test_a_process_that_is_gone_carries_nothing() -> None:
    assert not execution.carries(os.getpid(), 77)
    assert not execution.carries(2**22 + 1, 77)


async def answered(tmp_path: Path, script: str) -> ExecResult:
    """What comes of a runtime that does as `script` says; $pid: the file for the command's pid."""
    runtime = tmp_path / "runtime"
    runtime.write_text(f'#!/bin/sh\nfor word; do test "$last" = --pid-file && pid=$word; last=$word; done\n{script}\n')
    runtime.chmod(0o755)
    told = command.Command(str(runtime), "/root")
    description = {"args": ["check", "it"]}
    return await execution.run(told, cgroup.detect(), "f" * 64, "/absent", description, timeout=10, limit=1 << 20)


async def test_a_command_that_never_began_has_no_exit_code(tmp_path: Path) -> None:
    """crun's answer when its child was killed before the exec."""
    with pytest.raises(RopewalkError, match=r"f{13}: exec: 'check' was killed before it began.*out of memory"):
        await answered(tmp_path, "exit 255")


async def test_a_commands_own_255_is_its_exit_code(tmp_path: Path) -> None:
    assert await answered(tmp_path, 'echo 7 >"$pid"; echo no; exit 255') == ExecResult(255, b"no\n", b"")
