"""Single flight: one attempt per key, whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.singleflight import Flights


class Work:
    """An attempt that ends when told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.done = asyncio.Event()

    async def __call__(self) -> int:
        self.started += 1
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.started


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_later_callers_join_and_get_the_same_result() -> None:
    flights: Flights[int] = Flights(abandon=False)
    work = Work()
    callers = [asyncio.ensure_future(flights.join("k", work)) for _ in range(3)]
    await settle()
    work.done.set()
    assert await asyncio.gather(*callers) == [1, 1, 1]
    assert not flights.under_way("k")


@pytest.mark.parametrize(("abandon", "cancelled"), [(True, 1), (False, 0)])
async def test_an_attempt_whose_last_caller_left(*, abandon: bool, cancelled: int) -> None:
    flights: Flights[int] = Flights(abandon=abandon)
    work = Work()
    callers = [asyncio.ensure_future(flights.join("k", work)) for _ in range(2)]
    await settle()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await settle()
    assert work.cancelled == cancelled
    work.done.set()
    await settle()


async def test_one_caller_leaving_does_not_end_the_attempt_of_another() -> None:
    flights: Flights[int] = Flights(abandon=True)
    work = Work()
    first, second = (asyncio.ensure_future(flights.join("k", work)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    work.done.set()
    assert await second == 1


async def test_a_failure_is_raised_to_every_caller_and_forgotten() -> None:
    flights: Flights[int] = Flights(abandon=False)

    async def fail() -> int:
        raise RopewalkError("no", kind=Kind.INTERNAL)

    results = await asyncio.gather(*(flights.join("k", fail) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [RopewalkError, RopewalkError]
    work = Work()
    work.done.set()
    assert await flights.join("k", work) == 1


async def test_overtaken_callers_are_told_so() -> None:
    flights: Flights[int] = Flights(abandon=False)
    work = Work()
    caller = asyncio.ensure_future(flights.join("k", work))
    await settle()
    await flights.overtake("k", wanted="another thing")
    with pytest.raises(RopewalkError) as caught:
        await caller
    assert caught.value.kind is Kind.CANCELLED
    assert work.cancelled == 1


async def test_what_is_under_way_for_the_same_is_not_overtaken() -> None:
    flights: Flights[int] = Flights(abandon=False)
    work = Work()
    caller = asyncio.ensure_future(flights.join("k", work, wanted="a thing"))
    await settle()
    await flights.overtake("k", wanted="a thing")
    work.done.set()
    assert (await caller, work.cancelled) == (1, 0)
    await flights.overtake("k", wanted="another thing")
    kept = {name: value for name, value in vars(flights).items() if value}
    assert kept == {}


@pytest.mark.parametrize("left", [True, False])
async def test_a_failure_that_no_caller_hears_of_is_logged(caplog: pytest.LogCaptureFixture, *, left: bool) -> None:
    """What takes longer than its caller waits would never be explained."""
    flights: Flights[int] = Flights(abandon=False)
    gate = asyncio.Event()

    async def fail() -> int:
        await gate.wait()
        raise RopewalkError("the plugin hangs")

    caller = asyncio.ensure_future(flights.join("pod sandbox x", fail))
    await settle()
    if left:
        caller.cancel()
        await settle()
    gate.set()
    await asyncio.gather(caller, return_exceptions=True)
    await settle()
    told = [(vars(record)["what"], vars(record)["error"]) for record in caplog.records]
    assert told == ([("pod sandbox x", "the plugin hangs")] if left else [])
