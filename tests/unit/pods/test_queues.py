"""One change per pod at a time; Stop and Remove overtake what is being made; adoption closes a pod to calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.pods import queues


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def maker(pod_queues: queues.Queues, story: list[str], name: str) -> Callable[[], Awaitable[None]]:
    async def make() -> None:
        async with pod_queues.making("p"):
            story.append(f"{name} begins")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                story.append(f"{name} undone")
                raise

    return make


async def test_changes_of_one_pod_take_turns_and_of_two_do_not() -> None:
    pod_queues, story = queues.Queues(), []

    async def change(pod: str) -> None:
        async with pod_queues.turn(pod):
            story.append(f"{pod} in")
            await asyncio.sleep(0)
            story.append(f"{pod} out")

    await asyncio.gather(change("a"), change("a"), change("b"))
    assert story.index("b in") < story.index("a out")
    assert [event for event in story if event.startswith("a")] == ["a in", "a out"] * 2


async def test_nothing_is_kept_of_a_pod_when_nobody_has_or_waits_for_a_turn() -> None:
    """Also of one that waits for its turn while the pod is removed, and of one whose client leaves meanwhile."""
    pod_queues = queues.Queues()

    async def change() -> None:
        async with pod_queues.turn("p"):
            await asyncio.sleep(0)

    async with pod_queues.overtake("p"):
        waiting = [asyncio.ensure_future(change()) for _ in range(3)]
        await settle()
        waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    kept = {name: value for name, value in vars(pod_queues).items() if value}
    assert kept == {}


async def test_a_stop_cancels_what_is_made_waits_for_its_undo_and_wins() -> None:
    pod_queues = queues.Queues()
    story: list[str] = []
    makers = [asyncio.ensure_future(maker(pod_queues, story, name)()) for name in ("first", "second")]
    await settle()
    async with pod_queues.overtake("p"):
        story.append("stopped")
        with pytest.raises(RopewalkError) as caught:
            await maker(pod_queues, story, "late")()
        assert caught.value.kind is Kind.STATE
    assert story == ["first begins", "first undone", "stopped"]
    await asyncio.gather(*makers, return_exceptions=True)


async def test_a_call_waits_for_the_adoption_of_its_pod_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "ADOPTION_DEADLINE", 0.01)
    pod_queues = queues.Queues()
    pod_queues.begin_adoption("p")
    async with pod_queues.turn("other"):
        pass
    with pytest.raises(RopewalkError) as caught:
        await pod_queues.adopted("p")
    assert caught.value.kind is Kind.UNAVAILABLE
    pod_queues.end_adoption("p")
    async with pod_queues.turn("p"):
        pass
