"""Figures from samples: known answers, and the properties that a wrong bootstrap or test would break."""

from __future__ import annotations

import random

import pytest

from bench import statistics


def test_quantiles_are_samples() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [statistics.quantile(values, share) for share in (0.0, 0.2, 0.5, 0.99, 1.0)] == [1, 1, 3, 5, 5]


def test_a_median_lies_in_its_interval_and_the_interval_in_the_samples() -> None:
    values = [random.Random(7).gauss(100, 10) for _ in range(40)] + [1000.0]
    found = statistics.median(values)
    assert min(values) <= found.low <= found.value <= found.high < 1000


def test_equal_samples_have_no_width() -> None:
    assert statistics.median([3.0] * 5) == statistics.Estimate(3, 3, 3)
    assert statistics.ratio([3.0] * 5, [6.0] * 5) == statistics.Estimate(0.5, 0.5, 0.5)


def test_the_same_samples_give_the_same_figures() -> None:
    draw = random.Random(8)
    values = [draw.random() for _ in range(20)]
    assert statistics.median(values) == statistics.median(values)


def test_what_hits_both_of_a_pair_does_not_widen_the_ratio() -> None:
    """Load that doubles both samples of a pair: each median is uncertain, the ratio of pairs is not."""
    load = [1.0, 8.0, 2.0, 4.0, 1.0, 16.0, 2.0, 4.0, 8.0]
    ratio = statistics.ratio([10 * factor for factor in load], [40 * factor for factor in load])
    assert ratio == statistics.Estimate(0.25, 0.25, 0.25)


def test_chance_explains_equal_products() -> None:
    assert statistics.permutation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0


@pytest.mark.parametrize(("pairs", "least"), [(5, 2 / 32), (12, 2 / 4096), (40, 1 / 5001)])
def test_chance_does_not_explain_a_difference_in_every_pair(pairs: int, least: float) -> None:
    draw = random.Random(9)
    ours = [1 + draw.random() for _ in range(pairs)]
    assert statistics.permutation(ours, [10 * value for value in ours]) == pytest.approx(least, rel=0.5)


def test_the_test_is_two_sided() -> None:
    ours, theirs = [1.0, 1.2, 0.9, 1.1], [2.0, 1.1, 1.9, 2.2]
    assert statistics.permutation(ours, theirs) == statistics.permutation(theirs, ours)
