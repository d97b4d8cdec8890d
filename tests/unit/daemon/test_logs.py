"""Events as JSON and as text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from ropewalk.daemon import logs
from ropewalk.wire import operation


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """setup() takes the root logger over; pytest gets it back."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.level, root.handlers[:] = before


def said(format: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.setup(logs.Config(level=level, format=format), stream)  # type: ignore[arg-type]
    return stream


def test_json_has_facts_and_the_operation() -> None:
    stream = said("json")
    logging.getLogger("ropewalk.pods").debug("not this")
    id = operation.begin()
    logging.getLogger("ropewalk.pods").warning("init %s", "ended", extra={"pod": "p", "path": io.StringIO})
    event = json.loads(stream.getvalue())
    assert event["time"].endswith("Z")
    assert {k: event[k] for k in ("level", "logger", "msg", "op", "pod")} == {
        "level": "warning",
        "logger": "pods",
        "msg": "init ended",
        "op": id,
        "pod": "p",
    }
    assert "StringIO" in event["path"]


def test_a_traceback_is_one_field() -> None:
    stream = said("json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert json.loads(stream.getvalue())["trace"].endswith("ValueError: no")
    assert stream.getvalue().count("\n") == 1


def test_text_is_for_people() -> None:
    stream = said("text", "debug")
    logging.getLogger("ropewalk.wire.grpc").debug("call", extra={"method": "Version", "ms": 0.2})
    assert stream.getvalue().split(" ", 1)[1].startswith("D wire.grpc: call ")
    assert "method=Version ms=0.2" in stream.getvalue()


def test_nobody_forges_a_line_or_a_terminals_command() -> None:
    stream = said("text")
    logging.getLogger("x").info("call", extra={"error": "no such file \x1b[2J\n2026 I x: forged"})
    assert stream.getvalue().count("\n") == 1
    assert r"no such file \x1b[2J\n2026" in stream.getvalue()


def test_what_is_no_terminal_gets_json() -> None:
    stream = said("auto")
    logging.getLogger("x").info("hello")
    assert json.loads(stream.getvalue())["msg"] == "hello"


def test_no_event_is_lost_for_what_is_in_it() -> None:
    stream = said("json")
    logging.getLogger("x").warning("skipped", extra={"file": "/etc/\udcff.conf", "size": 1 << 70})
    event = json.loads(stream.getvalue())
    assert (event["msg"], event["file"], event["size"]) == ("skipped", "/etc/\udcff.conf", 1 << 70)
