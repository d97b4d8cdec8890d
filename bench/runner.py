"""Takes the samples, measure by measure; in a pair both sides take turns, and the first is another one each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from bench import statistics
from bench.measures import Measure
from bench.side import Side
from bench.statistics import Estimate

PAUSE = 0.05  # seconds between samples: what one side still does behind its answer shall not hit the other


class Outcome(Struct, frozen=True):
    """The samples of a measure by side, in the order of the pairs; `client`: its share of the time under the clock."""

    name: str
    unit: str
    better: str
    text: str
    samples: dict[str, list[float]]
    client: dict[str, float]

    def estimate(self, side: str) -> Estimate:
        return statistics.median(self.samples[side])

    @property
    def ratio(self) -> Estimate | None:
        if len(self.samples) < 2:
            return None
        ours, theirs = self.samples.values()
        return statistics.ratio(ours, theirs)

    @property
    def p(self) -> float | None:
        if len(self.samples) < 2:
            return None
        ours, theirs = self.samples.values()
        return statistics.permutation(ours, theirs)


def ordered(measures: Sequence[Measure]) -> list[Measure]:
    """By the population they need, smallest first: it only grows. Then by network: a change restarts the daemon."""
    return sorted(measures, key=lambda measure: (measure.pods, measure.containers, measure.network))


def run(
    measures: Sequence[Measure], sides: Sequence[Side], pairs: int, say: Callable[[Outcome], None]
) -> list[Outcome]:
    """`pairs`: 0 for each measure's own number. `say` hears of each outcome as soon as it is there."""
    outcomes = []
    for measure in ordered(measures):
        for side in sides:
            side.use(measure.network)
            side.populate(measure.pods, measure.containers)
        outcome = _take(measure, sides, pairs or measure.pairs)
        say(outcome)
        outcomes.append(outcome)
    return outcomes


def _take(measure: Measure, sides: Sequence[Side], pairs: int) -> Outcome:
    samples: dict[str, list[float]] = {side.name: [] for side in sides}
    before = {side.name: (side.client_seconds, side.clock_seconds) for side in sides}
    for number in range(pairs):
        for side in sides if number % 2 == 0 else reversed(sides):
            samples[side.name].append(measure.sample(side))
            time.sleep(PAUSE)
    client = {}
    for side in sides:
        used, passed = before[side.name]
        passed = side.clock_seconds - passed
        client[side.name] = (side.client_seconds - used) / passed if passed else 0.0
    return Outcome(measure.name, measure.unit, measure.better, measure.text, samples, client)
