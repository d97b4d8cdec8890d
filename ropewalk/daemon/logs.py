"""The daemon's log: one JSON object (or one line of text) per event, on stderr, with the operation it belongs to."""

from __future__ import annotations

import logging
import sys
import time
from typing import Annotated, Any, Literal, TextIO

import msgspec
from msgspec import Meta, Struct

from ropewalk.wire import operation


class Config(Struct, frozen=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(
            description="Least severe events that are written; debug has every call that kubelet polls with.",
            extra={"live": True},
        ),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "text"],
        Meta(
            description="One JSON object per line, or text for people; auto: text on a terminal.", extra={"live": True}
        ),
    ] = "auto"


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the event said beside its text."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class Json(logging.Formatter):
    """{"time", "level", "logger", "msg", "op", ...facts, "trace"}."""

    _encode = staticmethod(msgspec.json.Encoder(enc_hook=str).encode)

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("ropewalk."),
            "msg": record.getMessage(),
        }
        if current := operation.current():
            event["op"] = current
        event |= _extra(record)
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        try:
            return self._encode(event).decode()
        except (UnicodeEncodeError, OverflowError):  # a file's name that is no UTF-8, a number of more than 64 bits
            import json

            return json.dumps(event, default=str)


class Text(logging.Formatter):
    """time level logger message key=value ..."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {"op": operation.current()} | _extra(record)
        said = " ".join(f"{name}={value}" for name, value in facts.items() if value != "")
        line = f"{_time(record)} {record.levelname[0]} {record.name.removeprefix('ropewalk.')}: {record.getMessage()}"
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return _printable(f"{line} {said}".rstrip()) + trace


def _printable(text: str) -> str:
    """One line, and nothing that a terminal obeys: some of what is logged are the words of containers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def setup(config: Config, stream: TextIO | None = None) -> None:
    """Send every event of this process to `stream` (stderr)."""
    stream = stream if stream is not None else sys.stderr
    as_text = config.format == "text" or (config.format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if as_text else Json())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # what no event says need not be
    logging._srcfile = None  # found out (docs.python.org/3/howto/logging.html, "Optimization")
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
