"""Sizes, spans and times, both ways."""

from __future__ import annotations

import pytest

from ropewalk.cli import units
from ropewalk.errors import Invalid

AT = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("count", "decimal", "binary"),
    [
        (None, "-", "-"),
        (0, "0B", "0B"),
        (999, "999B", "999B"),
        (4_270_000, "4.27MB", "4.07MiB"),
        (1 << 30, "1.07GB", "1GiB"),
        (1_020 << 20, "1.07GB", "1020MiB"),
        (1 << 60, "1153PB", "1024PiB"),
    ],
)
def test_sizes(count: int | None, decimal: str, binary: str) -> None:
    assert (units.decimal(count), units.binary(count)) == (decimal, binary)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (1, "a second"),
        (59, "59 seconds"),
        (70, "70 seconds"),
        (130, "2 minutes"),
        (3700, "61 minutes"),
        (6000, "100 minutes"),
        (7300, "2 hours"),
        (90000, "25 hours"),
        (3 * 86400, "3 days"),
        (20 * 86400, "2 weeks"),
        (800 * 86400, "2 years"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert units.span(seconds) == text


def test_moments() -> None:
    assert units.moment(AT) == "2023-11-14T22:13:20.123456789Z"
    assert (units.moment(0), units.ago(0)) == ("", "-")
    assert units.ago(AT, AT / units.SECOND + 5.5) == "5 seconds ago"


def test_ids() -> None:
    assert units.short("sha256:" + "a" * 64) == "a" * 12
    assert units.short("b" * 64, whole=True) == "b" * 64


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("100b", 100), ("512m", 512 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("10kb", 10240)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "1x", "1mm", "-", "1e999", "nan", "-5m", "99999999999g"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid, match="is no size"):
        units.parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("1.5", 1.5), ("1m30s", 90), ("2h", 7200), ("500ms", 0.5)])
def test_spans_are_read(text: str, seconds: float) -> None:
    assert units.parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1d", "m1", "1m30", "-5s"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(Invalid, match="is no span"):
        units.parse_span(text)


def test_moments_are_read() -> None:
    now = AT / units.SECOND
    assert units.parse_moment("20s", 1_700_000_000) == "2023-11-14T22:13:00.000000000Z"
    assert units.parse_moment("2023-11-14T22:13:20Z", now) == "2023-11-14T22:13:20.000000000Z"
    assert units.parse_moment("2023-11-14T23:13:20.5+01:00", now) == "2023-11-14T22:13:20.500000000Z"
    with pytest.raises(Invalid, match="is no time"):
        units.parse_moment("2023-99-14", now)
