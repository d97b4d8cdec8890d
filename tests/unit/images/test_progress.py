"""What people who wait for a pull are told."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.images import jobs, progress
from ropewalk.images.descriptor import Descriptor
from ropewalk.images.progress import Board, LayerState, PullProgress

PLANS = [
    jobs.LayerPlan(Descriptor("t", f"sha256:{n:064}", 1000), f"sha256:{n:064}", f"sha256:{n + 10:064}") for n in (1, 2)
]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PACE", 0.001)


async def test_a_watcher_sees_the_pull_grow_and_end() -> None:
    board = Board()
    seen: list[PullProgress] = []

    async def watch() -> None:
        async for report in board.watch("a:1"):
            seen.append(report)
            if report.done:
                return

    watcher = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    other = board.begin("b:1")
    track = board.begin("a:1")
    board.plan(track, PLANS)
    board.layer(PLANS[0].chain_id, LayerState.FETCHING, 400)
    async with asyncio.timeout(20):
        while not seen or [layer.fetched for layer in seen[-1].layers] != [400, 0]:
            await asyncio.sleep(0)
    board.end(other)
    board.layer(PLANS[0].chain_id, LayerState.DONE, 1000)
    board.end(track)
    async with asyncio.timeout(20):
        await watcher
    assert {report.image for report in seen} == {"a:1"}
    assert [layer.fetched for layer in seen[-2].layers] == [400, 0]
    assert [layer.state for layer in seen[-1].layers] == [LayerState.DONE, LayerState.WAITING]
    assert (seen[-1].done, seen[-1].error) == (True, "")
    assert board.pulls() == []


async def test_pulls_that_share_a_layer_both_show_it() -> None:
    board = Board()
    one, two = board.begin("a:1"), board.begin("b:1")
    for track in (one, two):
        board.plan(track, PLANS[:1])
    board.layer(PLANS[0].chain_id, LayerState.FETCHING, 7)
    board.end(one, "failed")
    (left,) = board.pulls()
    assert left.layers[0].fetched == 7
    board.end(two)
    assert board._layers == {}
