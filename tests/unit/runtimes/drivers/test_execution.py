"""The mark by which a command's processes are found."""

from __future__ import annotations

import os
from pathlib import Path

from ropewalk.runtimes.drivers import execution

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
