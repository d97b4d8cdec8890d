"""Pairs are taken in turns, in populations that only grow; the table says what came out."""

from __future__ import annotations

import json
from typing import cast

import pytest

from bench import report, runner
from bench.measures import Measure
from bench.side import Side


class Fake:
    """A side that only writes down what it was asked."""

    client_seconds = clock_seconds = 0.0

    def __init__(self, name: str, story: list[str]) -> None:
        self.name, self.story = name, story

    def use(self, network: str) -> None:
        if network != "bridge":
            self.story.append(f"{self.name} on {network}")

    def populate(self, pods: int, containers: int) -> None:
        self.story.append(f"{self.name} {pods}x{containers}")


def measure(name: str, *, pods: int = 0, network: str = "bridge") -> Measure:
    def sample(side: Side) -> float:
        cast(Fake, side).story.append(f"{side.name} {name}")
        return 40.0 if side.name == "peer" else 10.0

    return Measure(name, sample, "ms", "lower", 2, pods, 1 if pods else 0, network, name)


def take(
    monkeypatch: pytest.MonkeyPatch, *chosen: Measure, names: tuple[str, ...] = ("ropewalk", "peer")
) -> tuple[list[str], list[runner.Outcome]]:
    monkeypatch.setattr(runner, "PAUSE", 0)
    story: list[str] = []
    sides = [cast(Side, Fake(name, story)) for name in names]
    return story, runner.run(chosen, sides, 0, lambda _: None)


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    story, _ = take(monkeypatch, measure("stop"))
    assert story == ["ropewalk 0x0", "peer 0x0", "ropewalk stop", "peer stop", "peer stop", "ropewalk stop"]


def test_populations_only_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    story, outcomes = take(monkeypatch, measure("crowd", pods=100), measure("none"), measure("one", pods=1))
    assert [outcome.name for outcome in outcomes] == ["none", "one", "crowd"]
    assert [line for line in story if line.startswith("peer") and "x" in line] == ["peer 0x0", "peer 1x1", "peer 100x1"]


def test_the_network_changes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = (measure("a", network="cni"), measure("b"), measure("c", network="cni"))
    story, outcomes = take(monkeypatch, *chosen, names=("ropewalk",))
    assert [outcome.name for outcome in outcomes] == ["b", "a", "c"]
    assert story.index("ropewalk on cni") > story.index("ropewalk b")


def test_a_row_holds_the_ratio_against_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (outcome,) = take(monkeypatch, measure("pod_start_host"))
    cells = dict(zip(report.HEADS, report.row(outcome), strict=True))
    assert cells["ropewalk"] == "10.0 [10.0, 10.0]"
    assert cells["ratio"] == "0.25 [0.25, 0.25]"
    assert (cells["bar"], cells["verdict"]) == ("≤ 0.35x", "met")


def test_ropewalk_alone_has_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (outcome,) = take(monkeypatch, measure("pod_start_host"), names=("ropewalk",))
    cells = dict(zip(report.HEADS, report.row(outcome), strict=True))
    assert (cells["peer"], cells["ratio"], cells["p"], cells["verdict"]) == ("-", "-", "-", "not compared")


def test_the_document_has_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    _, outcomes = take(monkeypatch, measure("exec_sync"))
    read = json.loads(report.document(outcomes, {"kernel": "6"}, {"others_cpus": 0.5}))
    (found,) = read["measures"]
    assert found["samples"] == {"ropewalk": [10, 10], "peer": [40, 40]}
    assert found["ratio"]["value"] == 0.25
    assert read["where"] == {"kernel": "6"}


def test_numbers_have_three_digits() -> None:
    assert [report.number(value) for value in (0.294, 3.14159, 42.42, 187.3)] == ["0.29", "3.14", "42.4", "187"]


def test_tables_are_aligned() -> None:
    assert report.table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
