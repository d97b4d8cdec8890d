"""ExecSync on the kernel: what runs where, what stays, what a timeout takes along."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.spec import container
from tests.node.containers import proc
from tools import workload

RunPod = Callable[..., Coroutine[Any, Any, workload.Pod]]
pytestmark = pytest.mark.usefixtures("pulled")


@pytest.fixture
async def id(run_pod: RunPod) -> str:
    """A running container of another user, with a working directory and a variable."""
    sandbox = await run_pod(host_network=True)
    security = container.LinuxContainerSecurityContext(
        namespace_options=sandbox.spec.namespaces, run_as_user=1000, run_as_group=50, supplemental_groups=[77]
    )
    return await sandbox.start(
        "main",
        "sleep",
        "600",
        working_dir="/home/tester",
        envs=[container.KeyValue(key="COLOUR", value=b"green")],
        linux=container.LinuxContainerConfig(security_context=security),
    )


async def test_it_is_like_the_container(client: cri.Client, id: str) -> None:
    main = await proc.pid_of(client, id)
    script = "echo $COLOUR; pwd; read line < /dev/null; cat /proc/self/status /proc/self/cgroup"
    done = await client.exec_sync(id, ["sh", "-c", script])
    assert (done.exit_code, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert text.startswith("green\n/home/tester\n")
    mine = proc.status(main)
    for field in ("Uid", "Gid", "Groups", "CapEff", "CapBnd", "CapPrm", "CapInh", "NoNewPrivs", "Seccomp"):
        assert f"{field}:\t{mine[field]}" in text, field


async def test_codes_and_streams_are_apart(client: cri.Client, id: str) -> None:
    done = await client.exec_sync(id, ["sh", "-c", "echo out; echo err >&2; exit 9"])
    assert (done.exit_code, done.stdout, done.stderr) == (9, b"out\n", b"err\n")


async def test_it_returns_when_the_command_exits(client: cri.Client, id: str) -> None:
    """What it leaves in the background holds the pipes, and lives on."""
    done = await client.exec_sync(id, ["sh", "-c", "sleep 603 & echo hi"], timeout=30)
    assert done.stdout == b"hi\n"
    group = proc.cgroup_of(await proc.pid_of(client, id))
    async with asyncio.timeout(30):
        while not sleepers(group, b"603"):  # between its fork and its exec it is a shell
            await asyncio.sleep(0.01)


async def test_a_timeout_takes_the_children_along(client: cri.Client, id: str) -> None:
    group = proc.cgroup_of(await proc.pid_of(client, id))
    script = "setsid sleep 604 & (sleep 604 & sleep 604) & sleep 604"
    with pytest.raises(RopewalkError) as late:
        await client.exec_sync(id, ["sh", "-c", script], timeout=1)
    assert late.value.kind is Kind.TIMEOUT
    assert sleepers(group, b"604") == []
    assert len(proc.members(group)) == 1, "only the container's own process is left"


async def test_a_caller_that_leaves_takes_the_command_along(client: cri.Client, id: str) -> None:
    group = proc.cgroup_of(await proc.pid_of(client, id))
    calling = asyncio.ensure_future(client.exec_sync(id, ["sleep", "605"]))
    async with asyncio.timeout(30):
        while not sleepers(group, b"605"):
            await asyncio.sleep(0.01)
        calling.cancel()
        while sleepers(group, b"605"):
            await asyncio.sleep(0.01)


async def test_the_limit_drops_without_an_error(client: cri.Client, id: str) -> None:
    """Stdout, stderr and framing stay below the client's 16 MiB."""
    done = await client.exec_sync(id, ["sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null; exit 4"])
    assert done.exit_code == 4
    assert 15 << 20 < len(done.stdout) < 16 << 20


def sleepers(group: str, seconds: bytes) -> list[int]:
    return [pid for pid in proc.members(group) if seconds in process.command_line(pid)]
