"""gVisor's driver without a daemon: what the contract's suites leave to each handler with a kernel of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from ropewalk.errors import Kind, RopewalkError, Unsupported
from ropewalk.linux import namespaces
from ropewalk.runtimes import trial
from ropewalk.runtimes.drivers import execution
from ropewalk.runtimes.handler import ContainerPlan, PodPlan
from ropewalk.runtimes.handlers import runsc
from ropewalk.runtimes.streams import Streams
from ropewalk.spec.pod import LinuxContainerResources, PodSpec
from tests.contract import handlers
from tests.contract.conftest import place  # noqa: F401
from tests.fakes import boxes
from tests.fakes.boxes import Box, Place, run

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["runsc", "runsc-newer"])
async def handler(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[runsc.Handler]:  # noqa: F811
    made = await handlers.ready(request.param, place)
    assert isinstance(made, runsc.Handler)
    yield made
    await made.sweep(set())
    assert place.found() == []


INIT = ("sh", "-c", "while :; do sleep 1; done")  # reaps


async def only_init(handler: runsc.Handler, box: Box) -> None:
    """Until nothing but it runs."""
    async with asyncio.timeout(30):
        while not set(await names(handler, box)) <= {"sh", "sleep", "exe"}:
            await asyncio.sleep(0.05)


async def names(handler: runsc.Handler, box: Box) -> list[str]:
    """Programs that run in a container."""
    table = await handler.command.ask(box.id, "ps", box.id, timeout=10)
    return [line.split()[-1].decode() for line in table.splitlines()[1:]]


async def test_a_timeout_ends_what_descends_from_the_command(handler: runsc.Handler, place: Place) -> None:  # noqa: F811
    box = await run(handler, place.plan(*INIT))
    with pytest.raises(RopewalkError) as caught:
        await box.exec("sh", "-c", "tail -f /dev/null & setsid cat /dev/zero > /dev/null & yes > /dev/null", timeout=1)
    assert caught.value.kind is Kind.TIMEOUT
    await only_init(handler, box)
    assert (await box.exec("echo", "alive")).stdout == b"alive\n"
    await box.delete()


async def test_a_caller_that_leaves_ends_the_command(handler: runsc.Handler, place: Place) -> None:  # noqa: F811
    box = await run(handler, place.plan(*INIT))
    leaving = asyncio.ensure_future(box.exec("tail", "-f", "/dev/null"))
    async with asyncio.timeout(30):
        while "tail" not in await names(handler, box):
            await asyncio.sleep(0.05)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await only_init(handler, box)
    await box.delete()


@pytest.mark.parametrize("tty", [False, True])
async def test_closing_the_streams_ends_the_command(handler: runsc.Handler, place: Place, tty: bool) -> None:  # noqa: F811
    box = await run(handler, place.plan(*INIT))
    process = {"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "tail -f /dev/null & echo on; yes > /dev/null"]}
    one = await handler.exec_stream(box.id, box.task, {**process, "env": ["PATH=/bin"], "cwd": "/"}, tty=tty)
    await says(one, b"on")
    await one.close()
    await only_init(handler, box)
    await box.delete()


async def test_a_caller_that_leaves_while_its_command_begins(
    handler: runsc.Handler,
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = await run(handler, place.plan(*INIT))
    begun: list[int] = []

    def leave(pid_file: str, _: object) -> None:
        begun.append(int(Path(pid_file).read_text()))
        raise asyncio.CancelledError

    monkeypatch.setattr(execution, "adopt", leave)
    process = {"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "tail -f /dev/null"], "env": ["PATH=/bin"]}
    with pytest.raises(asyncio.CancelledError):
        await handler.exec_stream(box.id, box.task, {**process, "cwd": "/"}, tty=False)
    assert begun
    await only_init(handler, box)
    await box.delete()


async def says(one: Streams, text: bytes) -> None:
    said = b""
    async with asyncio.timeout(30):
        while text not in said:
            chunk = await one.read()
            assert chunk is not None, said
            said += chunk.data


async def test_kill_ends_what_outlived_init(handler: runsc.Handler, place: Place) -> None:  # noqa: F811
    """In the pod's PID namespace nothing ends with a container's first process."""
    shared = tuple(kind for kind in boxes.NAMESPACES if kind != "pid")
    box = await run(handler, place.plan("sh", "-c", "setsid tail -f /dev/null & exit 3", namespaces=shared))
    assert (await box.wait()).code == 3
    await box.kill()
    pod = await handler.command.ask(box.id, "exec", box.plan.pod_id, "/catatonit", "-V", timeout=10)
    assert b"catatonit" in pod  # the pod goes on
    assert len(place.cgroups.processes(place.cgroup)) > 0
    await box.delete()


async def test_without_monitor_and_sentry_nobody_knows(handler: runsc.Handler, place: Place) -> None:  # noqa: F811
    box = await run(handler, place.plan("sleep", "100"))
    for pid in (box.task.monitor_pid, box.task.pid):
        os.kill(pid, signal.SIGKILL)
    exit = await box.wait()
    assert (exit.code, exit.reason) == (255, "Unknown")
    assert not (await handler.observe(box.id, box.task)).alive
    await box.delete()


async def test_an_exhausted_pod_is_said_of_each_container(handler: runsc.Handler, place: Place) -> None:  # noqa: F811
    """Only the pod's limit is enforced: it ends the Sentry."""
    first = await run(handler, place.plan("sleep", "100"))
    plan = structs.replace(place.plan("tail", "/dev/zero"), pod=first.plan.pod, pod_id=first.plan.pod_id)
    place.cgroups.update(boxes.pod_cgroup(first.plan), LinuxContainerResources(memory_limit_in_bytes=96 << 20))
    second = await run(handler, plan)
    for box in (second, first):
        exit = await box.wait()
        assert (exit.code, exit.oom) == (137, True)
    await handler.delete(second.id, "")
    await first.delete()


@pytest.fixture
async def networked(handler: runsc.Handler, place: Place) -> AsyncIterator[ContainerPlan]:  # noqa: F811
    """A pod with a loopback, as the plan of a container in it."""
    pin = f"{place.state}/net"
    namespaces.make(["net"], {"net": pin})
    namespaces.inside({"net": pin}, raise_loopback)
    path = f"{place.cgroup}/networked"
    spec = trial.build_spec(path)
    kinds = [one if one["type"] != "network" else {**one, "path": pin} for one in spec["linux"]["namespaces"]]
    spec = {**spec, "linux": {**spec["linux"], "namespaces": kinds}}
    pod = PodPlan("networked", PodSpec(), spec, cgroup=path, parent=place.cgroup, namespaces={"network": pin})
    yield structs.replace(place.plan("true"), pod_id=pod.id, pod=await handler.create_pod(pod))
    await handler.delete_pod(pod.id, path)
    namespaces.unpin(pin)


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


async def test_a_port_of_the_sentry(handler: runsc.Handler, place: Place, networked: ContainerPlan) -> None:  # noqa: F811
    plan = place.plan("/bin/busybox", "nc", "-l", "-p", "8080", "-e", "/bin/echo", "served")
    box = await run(handler, structs.replace(plan, pod_id=networked.pod_id, pod=networked.pod))
    if not handler.capabilities.port_forward:
        with pytest.raises(Unsupported, match="port-forward"):
            await handler.dial(networked.pod_id, networked.pod, "", 8080)
    else:
        assert await received(await handler.dial(networked.pod_id, networked.pod, "", 81)) == b""
        assert await received(await handler.dial(networked.pod_id, networked.pod, "", 8080)) == b"served\n"
    await handler.delete(box.id, "")


async def received(connection: socket.socket) -> bytes:
    with connection:
        async with asyncio.timeout(5):
            found = b""
            while chunk := await asyncio.get_running_loop().sock_recv(connection, 4096):
                found += chunk
            return found
