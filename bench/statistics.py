"""Honest figures from few samples: medians, bootstrap intervals, ratios of pairs, a permutation test. All pure.

A pair is one sample of each product taken next to each other; whatever else the machine did then hit both alike, so
pairs are resampled whole. The random numbers are seeded: the same samples give the same figures.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence

from msgspec import Struct

RESAMPLES = 2000
PERMUTATIONS = 5000
CONFIDENCE = 0.95


class Estimate(Struct, frozen=True):
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> Estimate:
    """The median; its interval by the percentile bootstrap."""
    count, draw = len(values), random.Random(1)
    return _estimate(
        statistics.median(values), lambda: statistics.median(draw.choices(values, k=count)) if count else math.nan
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Median of ours over median of theirs; pairs are resampled together."""
    assert len(ours) == len(theirs)
    indices, draw = range(len(ours)), random.Random(2)

    def resampled() -> float:
        chosen = draw.choices(indices, k=len(indices))
        return _over(statistics.median(ours[i] for i in chosen), statistics.median(theirs[i] for i in chosen))

    return _estimate(_over(statistics.median(ours), statistics.median(theirs)), resampled)


def permutation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How often chance alone makes the two differ that much (two-sided p): within each pair, the labels are swapped at
    random, and the mean difference of logarithms is compared. Exact for up to 12 pairs."""
    differences = [math.log(a) - math.log(b) for a, b in zip(ours, theirs, strict=True)]
    seen = abs(sum(differences)) - 1e-12
    count = len(differences)
    if count <= 12:
        signs = [[1 if bits >> i & 1 else -1 for i in range(count)] for bits in range(1 << count)]
        extreme = sum(abs(sum(s * d for s, d in zip(row, differences, strict=True))) >= seen for row in signs)
        return extreme / len(signs)
    draw = random.Random(3)
    extreme = sum(abs(sum(d if draw.random() < 0.5 else -d for d in differences)) >= seen for _ in range(PERMUTATIONS))
    return (extreme + 1) / (PERMUTATIONS + 1)


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf


def _estimate(value: float, resampled: Callable[[], float]) -> Estimate:
    drawn = sorted(resampled() for _ in range(RESAMPLES))
    edge = (1 - CONFIDENCE) / 2
    return Estimate(value, quantile(drawn, edge), quantile(drawn, 1 - edge))
