"""Many at a time, or one alone."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.network.gate import Gate


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_wants_to_be_alone_holds_nobody_up_while_it_waits() -> None:
    gate, order = Gate(), []

    async def alone() -> None:
        async with gate.alone():
            order.append("alone")
            await asyncio.sleep(0)

    async with gate.shared():
        waiting = asyncio.create_task(alone())
        await settle()
        async with gate.shared():
            order.append("second")
    await waiting
    assert order == ["second", "alone"]


async def test_nobody_enters_beside_one_who_is_alone() -> None:
    gate, order = Gate(), []

    async def enter(name: str) -> None:
        async with gate.shared():
            order.append(name)

    async with gate.alone():
        tasks = [asyncio.create_task(enter(name)) for name in "ab"]
        await settle()
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["a", "b"]


async def test_giving_up_leaves_the_gate_open() -> None:
    gate = Gate()
    async with gate.shared():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), gate.alone():
                pass
    async with gate.alone():
        pass
    async with gate.shared():
        pass
