from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator

import pytest

from ropewalk import errors
from ropewalk.linux import offload, paths, process


@pytest.fixture
async def workers() -> AsyncIterator[offload.Offload]:
    before = set(process.children(os.getpid()))
    workers = offload.Offload(limit=2)
    yield workers
    await workers.close()
    await reaped(before)


async def reaped(before: set[int]) -> None:
    """What was killed takes a moment."""
    async with asyncio.timeout(20):
        while not set(process.children(os.getpid())) <= before:
            await asyncio.sleep(0.001)


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while process.stat(pid) is not None:
            await asyncio.sleep(0.001)


async def test_a_call_runs_elsewhere_and_its_result_comes_back(workers: offload.Offload) -> None:
    first = await workers.call(os.getpid)
    assert first != os.getpid()
    assert await workers.call(os.getpid) == first
    assert await workers.call(os.path.join, "a", "b") == "a/b"
    big = await workers.call(bytes, 5_000_000)
    assert len(big) == 5_000_000


async def test_errors_come_back_as_themselves(workers: offload.Offload) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await workers.call(os.stat, "/nowhere")
    assert caught.value.filename == "/nowhere"
    with pytest.raises(ValueError, match="invalid literal"):
        await workers.call(int, "x")
    await workers.call(paths.remove_tree, "/nowhere")


def test_ropewalk_errors_survive_the_journey() -> None:
    again = pickle.loads(pickle.dumps(errors.NotFound("no such thing", hint="make one")))
    assert type(again) is errors.NotFound
    assert (again.message, again.hint, str(again)) == ("no such thing", "make one", "no such thing; make one")
    special = pickle.loads(pickle.dumps(errors.RopewalkError("x", kind=errors.Kind.TIMEOUT)))
    assert special.kind is errors.Kind.TIMEOUT


async def test_calls_run_side_by_side_up_to_the_limit(workers: offload.Offload) -> None:
    begin = time.monotonic()
    await asyncio.gather(*(workers.call(time.sleep, 0.1) for _ in range(4)))
    took = time.monotonic() - begin
    assert took >= 0.2
    assert len(workers._idle) == 2


async def test_a_call_past_its_deadline_is_named_and_its_worker_killed(workers: offload.Offload) -> None:
    pid = await workers.call(os.getpid)
    with pytest.raises(errors.RopewalkError, match=r"time\.sleep\(60\) did not answer within 0\.05 s") as caught:
        await workers.call(time.sleep, 60, timeout=0.05)
    assert caught.value.kind is errors.Kind.TIMEOUT
    await gone(pid)
    assert await workers.call(os.getpid) != pid


async def test_a_cancelled_call_gives_up_its_worker(workers: offload.Offload) -> None:
    pid = await workers.call(os.getpid)
    call = asyncio.ensure_future(workers.call(time.sleep, 60))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await gone(pid)


async def test_the_deadline_includes_waiting_for_a_worker(workers: offload.Offload) -> None:
    stuck = [asyncio.ensure_future(workers.call(time.sleep, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(errors.RopewalkError, match="was not begun") as caught:
        await workers.call(os.getpid, timeout=0.05)
    assert caught.value.kind is errors.Kind.TIMEOUT
    for call in stuck:
        call.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    assert await workers.call(os.getpid) > 0


async def test_calls_that_hang_keep_no_others_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead network file system and the pods that use it; up to a bound, since each holds a process."""
    monkeypatch.setattr(offload, "MAX_STUCK", 3)
    before = set(process.children(os.getpid()))
    workers = offload.Offload(limit=2, patience=0.01)
    hung = [asyncio.ensure_future(workers.call(time.sleep, 60)) for _ in range(4)]
    assert await workers.call(os.getpid)
    hung.append(asyncio.ensure_future(workers.call(time.sleep, 60)))
    while not (workers._slots.locked() and workers._aside == 3):
        await asyncio.sleep(0.001)
    with pytest.raises(errors.RopewalkError, match="was not begun"):
        await workers.call(os.getpid, timeout=0.1)
    for call in hung:
        call.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    assert workers._aside == 0
    await workers.close()
    await reaped(before)


async def test_a_worker_that_dies_is_an_error_of_that_call_only(workers: offload.Offload) -> None:
    with pytest.raises(errors.RopewalkError, match=r"the worker died in posix\._exit\(3\): exit code 3"):
        await workers.call(os._exit, 3)
    pid = await workers.call(os.getpid)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    assert await workers.call(os.getpid) != pid


async def test_idle_workers_leave() -> None:
    workers = offload.Offload(idle=0.05)
    pid = await workers.call(os.getpid)
    await gone(pid)
    assert await workers.call(os.getpid) != pid
    await workers.close()


async def test_a_background_worker_runs_at_idle_priority() -> None:
    workers = offload.Offload(1, background=True)
    assert await workers.call(os.sched_getscheduler, 0) == os.SCHED_IDLE
    await workers.close()


async def test_too_many_workers_that_hang_are_not_joined_by_more() -> None:
    workers = offload.Offload()

    class Hanging:
        code = None

    workers._stuck = [Hanging()] * offload.MAX_STUCK  # type: ignore[list-item]
    with pytest.raises(errors.RopewalkError, match="was not tried") as caught:
        await workers.call(os.getpid)
    assert caught.value.kind is errors.Kind.UNAVAILABLE
