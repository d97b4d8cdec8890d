"""What was promised, and whether a figure keeps it."""

from __future__ import annotations

import pytest

from bench import bars, measures
from bench.bars import Bar, Of
from bench.statistics import Estimate

RATIO, LEAST = Bar(0.35, Of.RATIO), Bar(2.5, Of.RATIO, at_least=True)


def test_every_bar_is_measured() -> None:
    assert bars.BARS.keys() <= measures.MEASURES.keys()


def test_every_measure_says_what_it_is() -> None:
    assert [measure.name for measure in measures.MEASURES.values() if not measure.text] == []


@pytest.mark.parametrize(
    ("bar", "own", "ratio", "word"),
    [
        (RATIO, Estimate(9, 9, 9), Estimate(0.2, 0.1, 0.3), "met"),
        (RATIO, Estimate(9, 9, 9), Estimate(0.3, 0.2, 0.4), "met (open)"),
        (RATIO, Estimate(9, 9, 9), Estimate(0.4, 0.3, 0.5), "MISSED (open)"),
        (RATIO, Estimate(9, 9, 9), Estimate(0.5, 0.4, 0.6), "MISSED"),
        (RATIO, Estimate(9, 9, 9), None, "not compared"),
        (LEAST, Estimate(9, 9, 9), Estimate(3, 2.6, 4), "met"),
        (LEAST, Estimate(9, 9, 9), Estimate(2, 1.5, 2.4), "MISSED"),
        (Bar(60), Estimate(42, 41, 43), None, "met"),
        (Bar(60), Estimate(42, 41, 43), Estimate(9, 9, 9), "met"),
        (None, Estimate(9, 9, 9), None, ""),
    ],
)
def test_verdicts(bar: Bar | None, own: Estimate, ratio: Estimate | None, word: str) -> None:
    assert bars.verdict(bar, own, ratio) == word


def test_bars_are_written_as_people_say_them() -> None:
    assert [str(RATIO), str(LEAST), str(Bar(1.2))] == ["≤ 0.35x", "≥ 2.5x", "≤ 1.2"]
