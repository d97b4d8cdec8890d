"""Steps: what fails is undone, last first, each even if another undo fails."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk import steps
from ropewalk.steps import Step


class Owner:
    def __init__(self, fails: str = "", undo_fails: str = "") -> None:
        self.story: list[str] = []
        self.fails = fails
        self.undo_fails = undo_fails

    def step(self, name: str) -> Step:
        async def do(owner: Owner, id: str) -> None:
            owner.story.append(f"do {name} {id}")
            if owner.fails == name:
                raise OSError(name)
            if owner.fails == "hang":
                await asyncio.Event().wait()

        async def undo(owner: Owner, id: str) -> None:
            owner.story.append(f"undo {name} {id}")
            if owner.undo_fails == name:
                raise OSError(name)

        return Step(name, do, undo)


async def test_every_step_is_done_in_order() -> None:
    owner = Owner()
    await steps.advance(owner, [owner.step("a"), owner.step("b")], "x")
    assert owner.story == ["do a x", "do b x"]


async def test_a_failure_undoes_every_step_last_first() -> None:
    owner = Owner(fails="b")
    with pytest.raises(OSError, match="b"):
        await steps.advance(owner, [owner.step("a"), owner.step("b"), owner.step("c")], "x")
    assert owner.story == ["do a x", "do b x", "undo c x", "undo b x", "undo a x"]


async def test_what_cannot_be_undone_is_a_note_and_stops_no_other_undo() -> None:
    owner = Owner(fails="b", undo_fails="b")
    with pytest.raises(OSError) as caught:
        await steps.advance(owner, [owner.step("a"), owner.step("b")], "x")
    assert caught.value.__notes__ == ["undo of b failed: b"]
    assert owner.story[-1] == "undo a x"


async def test_a_cancelled_operation_is_undone_before_the_cancellation_is_seen() -> None:
    owner = Owner(fails="hang")
    task = asyncio.ensure_future(steps.advance(owner, [owner.step("a")], "x"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert owner.story == ["do a x", "undo a x"]


async def test_who_cancels_twice_waits_for_the_undo_all_the_same() -> None:
    """Stop and Remove overtake at once; the row goes with the operation, so it must not end before its undo has."""
    undoing, gate = asyncio.Event(), asyncio.Event()

    async def do(story: list[str], id: str) -> None:
        await asyncio.Event().wait()

    async def undo(story: list[str], id: str) -> None:
        undoing.set()
        await gate.wait()
        story.append("undone")

    story: list[str] = []
    task = asyncio.ensure_future(steps.advance(story, [Step("a", do, undo)], "x"))
    await asyncio.sleep(0)
    task.cancel()
    await undoing.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert story == ["undone"]


async def test_an_undo_that_is_cut_off_leaves_a_note() -> None:
    """Nobody may take what is half undone for undone: its row must stay."""
    undoing = asyncio.Event()

    async def do(owner: object, id: str) -> None:
        raise OSError("broken")

    async def undo(owner: object, id: str) -> None:
        undoing.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    task = asyncio.ensure_future(steps.advance(None, [Step("a", do, undo)], "x"))
    await undoing.wait()
    for other in asyncio.all_tasks() - before - {task}:
        other.cancel()
    with pytest.raises(OSError, match="broken") as caught:
        await task
    assert caught.value.__notes__
