"""The Handler contract: checkpoints, where capabilities say that there are any; and where not, that it is refused."""

from __future__ import annotations

import asyncio
import os

import pytest
from msgspec import structs

from ropewalk.errors import Kind, RopewalkError, Unsupported
from ropewalk.linux import process
from ropewalk.runtimes import refusals
from ropewalk.runtimes.drivers.runsc import checkpoints
from ropewalk.runtimes.drivers.runsc import driver as runsc
from ropewalk.runtimes.handler import ContainerPlan, Handler, Task
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec
from tests.contract import handlers
from tests.fakes import boxes
from tests.fakes.boxes import Box, Place

pytestmark = pytest.mark.timeout(120)

COUNT = "i=0; while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 0.05; done"
TASK = Task(pid=0, pid_start=0)


def counted(box: Box) -> list[int]:
    return [int(text) for stream, _, text in box.log() if stream == "stdout" and text.isdigit()]


async def says(box: Box, more: int) -> int:
    """What it counts to, once that is more than `more`."""
    async with asyncio.timeout(30):
        while not (seen := counted(box)) or seen[-1] <= more:
            await asyncio.sleep(0.02)
    return seen[-1]


def named(plan: ContainerPlan, name: str) -> ContainerPlan:
    annotations = {"io.kubernetes.cri.container-name": name}
    return structs.replace(plan, spec={**plan.spec, "annotations": annotations})


async def saved(handler: Handler, place: Place) -> tuple[Box, str]:
    """A container that counts, and what was saved of it."""
    box = await boxes.run(handler, named(place.plan("sh", "-c", COUNT), "main"))
    await says(box, 5)
    directory = f"{place.logs}/saved-{box.id}"
    os.mkdir(directory, 0o700)
    await handler.checkpoint(box.id, box.task, directory)
    return box, directory


async def restored(handler: Handler, place: Place, directory: str) -> Box:
    """In a pod of its own, created."""
    plan = await boxes.make_pod(handler, named(place.plan("true"), "main"))
    pod = await handler.restore_pod(plan.pod_id, directory)
    plan = structs.replace(plan, pod=pod, checkpoint=directory)
    return Box(handler, plan, await handler.create(plan))


async def test_what_is_saved_runs_on(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    assert os.listdir(directory)
    await says(box, counted(box)[-1] + 3)
    assert counted(box) == list(range(1, counted(box)[-1] + 1))
    await box.kill()
    assert (await box.wait()).code == 137
    await box.delete()


async def test_what_is_restored_goes_on(handler: Handler, place: Place) -> None:
    """Memory, files, streams; its exit code, and a signal."""
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    at = counted(box)[-1]
    await box.delete()
    other = await restored(handler, place, directory)
    seen = await handler.observe(other.id, other.task)
    assert (seen.alive, seen.started) == (True, False)
    assert other.log() == []
    await other.start()
    await says(other, at)
    assert counted(other)[0] > 5
    assert counted(other) == list(range(counted(other)[0], counted(other)[-1] + 1))
    assert int((await other.exec("cat", "/count")).stdout) >= at
    assert (await handler.observe(other.id, other.task)).started
    await handler.signal(other.id, other.task, 15)
    assert (await other.wait()).code == 143
    await other.delete()


async def test_a_pods_process_is_replaced(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    plan = await boxes.make_pod(handler, place.plan("true"))
    before = plan.pod
    after = await handler.restore_pod(plan.pod_id, directory)
    assert before is not None
    assert after is not None
    assert not process.is_alive(before.pid, before.pid_start)
    assert process.is_alive(after.pid, after.pid_start)
    await handler.delete_pod(plan.pod_id, boxes.pod_cgroup(plan))
    assert not process.is_alive(after.pid, after.pid_start)
    await box.delete()


async def test_a_restored_container_that_was_not_started_is_removed(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    await box.delete()
    other = await restored(handler, place, directory)
    await other.delete()
    assert place.found() == []


async def test_the_next_daemon_starts_what_is_restored(handler: Handler, handler_name: str, place: Place) -> None:
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    await box.delete()
    other = await restored(handler, place, directory)
    later = await handlers.ready(handler_name, place)
    other.handler = later
    await other.start()
    await says(other, 5)
    await other.kill()
    assert (await other.wait()).code == 137
    await other.delete()
    await later.close()


async def test_an_abandoned_save_harms_nothing(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "checkpoint")
    box, directory = await saved(handler, place)
    for delay in (0.0, 0.005, 0.02, 0.05):
        target = f"{directory}-{delay}"
        os.mkdir(target)
        saving = asyncio.ensure_future(handler.checkpoint(box.id, box.task, target))
        await asyncio.wait([saving], timeout=delay)
        saving.cancel()
        await asyncio.wait([saving])
        await says(box, counted(box)[-1])
    await box.delete()


async def test_one_that_lives_beside_it_is_in_the_way(handler: Handler, place: Place) -> None:
    """The pods' part refuses before; no handler may lose a container by it."""
    handlers.needs(handler, "checkpoint")
    box = await boxes.run(handler, named(place.plan("sh", "-c", COUNT), "main"))
    beside = structs.replace(place.plan("sleep", "600"), pod_id=box.plan.pod_id, pod=box.plan.pod)
    other = Box(handler, beside, await handler.create(beside))
    await other.start()
    os.mkdir(f"{place.logs}/saved")
    with pytest.raises(RopewalkError, match="cannot delete container that is not stopped"):
        await handler.checkpoint(box.id, box.task, f"{place.logs}/saved")
    assert (await other.exec("echo", "alive")).stdout == b"alive\n"
    await handler.delete(other.id, other.plan.cgroup)
    await handler.checkpoint(box.id, box.task, f"{place.logs}/saved")
    await box.delete()


@pytest.mark.parametrize("killed", [False, True], ids=["", "daemon-killed"])
async def test_one_of_several_does_not_start_alone(handler: Handler, place: Place, killed: bool) -> None:
    """What `runsc checkpoint` by hand makes of a pod with two; its `restore` says that all is well."""
    handlers.needs(handler, "checkpoint")
    assert isinstance(handler, runsc.Driver)
    box = await boxes.run(handler, named(place.plan("sh", "-c", COUNT), "main"))
    beside = structs.replace(place.plan("sleep", "600"), pod_id=box.plan.pod_id, pod=box.plan.pod)
    other = Box(handler, named(beside, "other"), await handler.create(named(beside, "other")))
    await other.start()
    directory = f"{place.logs}/saved"
    os.mkdir(directory)
    await checkpoints.save(handler.command, box.plan.pod_id, directory)
    await handler.delete(other.id, other.plan.cgroup)
    await box.delete()
    alone = await restored(handler, place, directory)
    if killed:  # before it had a look
        await handler.monitor.start(f"{handler.containers}/{alone.id}", alone.task)
        await handler.observe(alone.id, alone.task)
        assert (await alone.wait()).code == 137
    else:
        with pytest.raises(RopewalkError, match="it was saved together with others") as caught:
            await alone.start()
        assert caught.value.kind is Kind.INVALID
    await alone.kill()
    await alone.delete()


async def test_who_cannot_says_so(handler: Handler) -> None:
    if handler.capabilities.checkpoint:
        pytest.skip(f"{handler.name} can")
    with pytest.raises(RopewalkError, match=f"runtime handler '{handler.name}' cannot checkpoint") as caught:
        refusals.check_checkpoint(handler, {handler.name: handler}, PodSpec(), ContainerSpec())
    assert caught.value.kind is Kind.UNSUPPORTED
    if not hasattr(handler, "facts"):  # a build of runsc that cannot, has the methods all the same
        with pytest.raises(Unsupported):
            await handler.checkpoint("id", TASK, "/nonexistent")
        with pytest.raises(Unsupported):
            await handler.restore_pod("id", "/nonexistent")
