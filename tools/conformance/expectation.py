"""What is expected of each of critest's specs, by name, and how a run compares with that.

The file (TOML) has a table `specs`: name → "pass", "skip: reason" or "fail: reason"; and it may have `handlers.<name>`,
with what is different there. A run may do better than expected; it may not do worse.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import NamedTuple

PASS, SKIP, FAIL = "pass", "skip", "fail"
STATES = {"passed": PASS, "skipped": SKIP, "pending": SKIP}  # of ginkgo; every other one is a failure


class Result(NamedTuple):
    outcome: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


class Comparison(NamedTuple):
    """Lines to print, by what they mean. `worse` and only that fails a run."""

    worse: list[str]  # expected to pass and did not, or to skip and failed
    better: list[str]  # passes now: the expectation wants an update
    unknown: list[str]  # in the run only
    absent: list[str]  # in the expectation only


def read_expected(path: Path, handler: str) -> dict[str, Result]:
    document = tomllib.loads(path.read_text())
    texts: dict[str, str] = {**document["specs"], **document.get("handlers", {}).get(handler, {})}
    return {name: parse(text, name) for name, text in texts.items()}


def parse(text: str, name: str) -> Result:
    """ValueError for an outcome that does not exist, and for a skip or fail without a reason."""
    outcome, _, reason = text.partition(": ")
    if outcome not in (PASS, SKIP, FAIL) or (outcome == PASS) == bool(reason):
        raise ValueError(f'{name!r}: {text!r} is not "pass", "skip: reason" or "fail: reason"')
    return Result(outcome, reason)


def read_report(path: Path, required: Set[str] = frozenset()) -> dict[str, Result]:
    """Name → result of the specs a run selected, from ginkgo's JSON report. What filters left out is not in it, but
    for `required` names: one of these that did not come to run (critest was ended before) is a skip."""
    found = {}
    for suite in json.loads(path.read_text()) or []:
        for spec in suite["SpecReports"] or []:
            name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
            outcome = STATES.get(spec["State"], FAIL)
            reason = first_line((spec.get("Failure") or {}).get("Message", ""))
            if spec["LeafNodeType"] != "It":
                if outcome == FAIL:
                    found[f"({spec['LeafNodeType']}) {name}".strip()] = Result(FAIL, reason or spec["State"])
            elif outcome == PASS:
                found[name] = Result(PASS)
            elif outcome == FAIL:
                found[name] = Result(FAIL, reason or spec["State"])
            elif reason or name in required:
                found[name] = Result(SKIP, reason or "it was not run")
    return found


def first_line(text: str) -> str:
    return " ".join(text.split())[:240]


def compare(expected: Mapping[str, Result], seen: Mapping[str, Result]) -> Comparison:
    order = (FAIL, SKIP, PASS)
    worse, better = [], []
    for name in sorted(expected.keys() & seen.keys()):
        before, now = expected[name], seen[name]
        if order.index(now.outcome) < order.index(before.outcome):
            worse.append(f"{name}\n    expected {before}\n    now {now}")
        elif order.index(now.outcome) > order.index(before.outcome):
            better.append(f"{name}\n    expected {before}\n    now {now}")
    unknown = [f"{name}\n    now {seen[name]}" for name in sorted(seen.keys() - expected.keys())]
    return Comparison(worse, better, unknown, sorted(expected.keys() - seen.keys()))
