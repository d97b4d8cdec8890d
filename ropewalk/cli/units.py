"""Sizes, times and ids: as people read them, and as they write them on a command line."""

from __future__ import annotations

import contextlib
import time

from ropewalk.errors import Invalid

SECOND = 1_000_000_000  # nanoseconds, the CRI's unit of time
_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SPANS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_STEPS = (
    ("year", 365 * 86400), ("month", 30 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60),
    ("second", 1),
)  # fmt: skip
_ID = 12  # characters that people see of an id, as with docker


def _scaled(count: float, base: int, names: tuple[str, ...]) -> str:
    at = 0
    while count >= base and at < len(names) - 1:
        count /= base
        at += 1
    return f"{count:.3g}{names[at]}" if count < 1000 else f"{count:.0f}{names[at]}"


def decimal(count: int | None) -> str:
    """Bytes on disk or a wire: "4.27MB"; "-" if unknown."""
    return "-" if count is None else _scaled(count, 1000, _DECIMAL)


def binary(count: int | None) -> str:
    """Bytes in memory: "1.5MiB"; "-" if unknown."""
    return "-" if count is None else _scaled(count, 1024, _BINARY)


def span(seconds: float) -> str:
    """ "5 seconds", "3 weeks": in the largest unit of which there are two."""
    if seconds < 1:
        return "less than a second"
    for name, length in _STEPS:
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {name}s"
    return "a second"


def ago(at: int, now: float | None = None) -> str:
    """How long ago `at` (ns) was; "-" for 0, which in the CRI means never."""
    if not at:
        return "-"
    return f"{span((time.time() if now is None else now) - at / SECOND)} ago"


def moment(at: int) -> str:
    """`at` (ns) in RFC 3339, UTC; "" for 0. Its texts sort as the times do."""
    if not at:
        return ""
    seconds, rest = divmod(at, SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"


def short(id: str, *, whole: bool = False) -> str:
    """The part of an id that people see."""
    return id if whole else id.removeprefix("sha256:")[:_ID]


def parse_size(text: str) -> int:
    """Bytes of "512m", "1.5g", "4096"; units are powers of 1024, as docker's. Raises Invalid."""
    number = text.lower().removesuffix("ib").rstrip("bkmgt")
    unit = text.lower().removesuffix("ib")[len(number) :]
    unit = unit if unit == "b" else unit.removesuffix("b")
    with contextlib.suppress(ValueError, KeyError, OverflowError):
        size = int(float(number) * _SIZES[unit])
        if 0 <= size < 1 << 63:  # what the CRI's fields hold
            return size
    raise Invalid(f"{text!r} is no size", hint="write bytes, or a number with k, m, g or t")


def parse_span(text: str) -> float:
    """Seconds of "90s", "1m30s", "2h", "500ms", "10". Raises Invalid."""
    import re  # only who gives a span pays for it

    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not text or not re.fullmatch(r"(\d+(\.\d+)?(ms|h|m|s))+", text):
        raise Invalid(f"{text!r} is no span of time", hint="write seconds, or numbers with h, m, s or ms: 1m30s")
    return sum(float(number) * _SPANS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|h|m|s)", text))


def parse_moment(text: str, now: float) -> str:
    """The RFC 3339 text, UTC, of a time given in RFC 3339 or as a span before `now`. Raises Invalid."""
    import datetime

    if not (len(text) > 4 and text[4] == "-"):
        return moment(int((now - parse_span(text)) * SECOND))
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{text!r} is no time", hint="write 2006-01-02T15:04:05Z, or a span: 10m") from None
    return moment(round(at.timestamp() * 1_000_000) * 1000)  # without a zone: the node's
