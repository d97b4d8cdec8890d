"""The Handler contract: several containers of one pod, the next daemon, statistics, and what capabilities rule out."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from msgspec import structs

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import namespaces, process
from ropewalk.runtimes import refusals
from ropewalk.runtimes.handler import ContainerPlan, Handler
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec
from tests.contract import handlers
from tests.fakes import boxes
from tests.fakes.boxes import Box, Place
from tests.unit.runtimes.test_refusals import CONTAINERS, PODS

pytestmark = pytest.mark.timeout(120)

Member = Callable[..., Awaitable[Box]]


@pytest.fixture
async def pod(handler: Handler, place: Place) -> AsyncIterator[ContainerPlan]:
    """A pod, as the plan of a container in it."""
    plan = await boxes.make_pod(handler, place.plan("true"))
    yield plan
    await handler.delete_pod(plan.pod_id, boxes.pod_cgroup(plan))
    await handler.delete_pod(plan.pod_id, boxes.pod_cgroup(plan))


@pytest.fixture
def member(handler: Handler, place: Place, pod: ContainerPlan) -> Member:
    """`await member("sh", …)`: a created container of the pod."""

    async def create(*args: str) -> Box:
        plan = structs.replace(place.plan(*args), pod_id=pod.pod_id, pod=pod.pod)
        return await boxes.create(handler, plan)

    return create


async def deleted(*members: Box) -> None:
    for box in members:
        await box.handler.delete(box.id, box.plan.cgroup)


async def test_containers_of_a_pod_live_and_end_apart(handler: Handler, member: Member, pod: ContainerPlan) -> None:
    script = "echo {0}; while test ! -e /end; do sleep 0.05; done; exit {1}"
    members = [await member("sh", "-c", script.format(name, code)) for name, code in (("a", 1), ("b", 2), ("c", 3))]
    await asyncio.gather(*(box.start() for box in members))
    first, second, third = members
    await second.exec("touch", "/end")
    assert (await second.wait()).code == 2
    await deleted(second)
    late = await member("sh", "-c", "exit 4")
    await late.start()
    assert (await late.wait()).code == 4
    for box, code in ((first, 1), (third, 3)):
        assert (await box.exec("sh", "-c", "test ! -e /end")).code == 0  # each has a root of its own
        await box.exec("touch", "/end")
        assert (await box.wait()).code == code
    assert [text for box in members for _, _, text in box.log()] == ["a", "b", "c"]
    await deleted(first, third, late)
    if pod.pod is not None:
        assert process.is_alive(pod.pod.pid, pod.pod.pid_start)  # the pod does not end with its containers


async def test_nothing_stays_of_a_pod(handler: Handler, place: Place) -> None:
    plan = await boxes.make_pod(handler, place.plan("true"))
    await handler.delete_pod(plan.pod_id, boxes.pod_cgroup(plan))
    assert plan.pod is None or not process.is_alive(plan.pod.pid, plan.pod.pid_start)
    assert place.found() == []


async def test_killing_one_container_leaves_the_others(member: Member) -> None:
    one, other = await member("sleep", "100"), await member("sleep", "100")
    await one.start()
    await other.start()
    await one.kill()
    assert (await one.wait()).code == 137
    assert (await other.exec("echo", "alive")).stdout == b"alive\n"
    await deleted(one, other)


async def test_the_next_daemon_adopts_every_state(
    handler: Handler, handler_name: str, place: Place, pod: ContainerPlan, member: Member
) -> None:
    created = await member("sh", "-c", "exit 5")
    running = await member("sh", "-c", "while test ! -e /end; do sleep 0.05; done; exit 6")
    exited = await member("sh", "-c", "exit 7")
    await running.start()
    await exited.start()
    assert (await exited.wait()).code == 7
    later = await handlers.ready(handler_name, place)
    seen = [await later.observe(box.id, box.task) for box in (created, running, exited)]
    assert [(one.alive, one.started) for one in seen] == [(True, False), (True, True), (False, True)]
    assert [one.exit.code if one.exit is not None else None for one in seen] == [None, None, 7]
    for box in (created, running, exited):
        box.handler = later
    await created.start()
    assert (await created.wait()).code == 5
    await running.exec("touch", "/end")
    assert (await running.wait()).code == 6
    assert (await exited.wait()).code == 7
    assert await later.sweep({pod.pod_id, *(box.id for box in (created, running, exited))}) == []
    await deleted(created, running, exited)
    await later.close()


async def test_what_a_container_uses_is_counted(handler: Handler, place: Place, member: Member) -> None:
    box = await member("sh", "-c", "i=0; while test $i -lt 20000; do i=$((i+1)); done; echo done; sleep 100")
    await box.start()
    async with asyncio.timeout(20):
        while not box.log():
            await asyncio.sleep(0.02)
    counted = await handler.stats(box.id, box.task) or place.cgroups.stats(box.plan.cgroup)
    assert counted is not None
    assert (counted.cpu_usage_ns or 0) > 1_000_000
    assert (counted.memory_usage or 0) > 50_000
    await box.kill()
    await deleted(box)


# What capabilities rule out


@pytest.mark.parametrize(("capability", "spec", "field"), PODS)
async def test_a_pod_that_cannot_be_had_is_refused(
    handler: Handler, capability: str, spec: PodSpec, field: str
) -> None:
    if getattr(handler.capabilities, capability):
        refusals.check(handler, spec)
        return
    with pytest.raises(RopewalkError) as caught:
        refusals.check(handler, spec)
    assert caught.value.kind is Kind.UNSUPPORTED
    assert handler.name in caught.value.message
    assert field in caught.value.message


@pytest.mark.parametrize(("capability", "spec", "field"), CONTAINERS)
async def test_a_container_that_cannot_be_had_is_refused(
    handler: Handler, capability: str, spec: ContainerSpec, field: str
) -> None:
    if getattr(handler.capabilities, capability):
        refusals.check(handler, PodSpec(), spec)
        return
    with pytest.raises(RopewalkError, match=f"cannot have .*{field.split()[0]}"):
        refusals.check(handler, PodSpec(), spec)


# Port-forward


async def test_a_pods_ports_can_be_dialled(handler: Handler, place: Place) -> None:
    if handler.capabilities.own_kernel:
        pytest.skip("its network stack is its own: its own tests dial it")
    pin = f"{place.state}/net"
    namespaces.make(["net"], {"net": pin})
    try:
        server = namespaces.inside({"net": pin}, listening)
        with server, await handler.dial("pod", None, pin, server.getsockname()[1]) as made:
            peer, _ = server.accept()
            with peer:
                await asyncio.get_running_loop().sock_sendall(made, b"hello")
                assert peer.recv(10) == b"hello"
        with pytest.raises(RopewalkError, match="nothing listens on port 9 of the pod"):
            await handler.dial("pod", None, pin, 9)
    finally:
        namespaces.unpin(pin)


def listening() -> socket.socket:
    """On the namespace's own loopback, which is down at first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    return socket.create_server(("127.0.0.1", 0))
