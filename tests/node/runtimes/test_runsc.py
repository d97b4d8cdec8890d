"""gVisor through the CRI: pods of both builds on one node, with their network, their exit codes and their limits."""

from __future__ import annotations

import asyncio
import os
import urllib.request

import pytest

from ropewalk.client import cri, values
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import gvisor, images, workload
from tools import node as nodes

NODE_CONFIG = f"""
[runtimes.newer]
type = "runsc"
path = "{gvisor.found()}"
"""
# httpd listens, and then goes into the background.
SERVE = "mkdir /www; echo served > /www/index.html; httpd -p 80 -h /www; echo ready; exec sleep 600"
HANDLERS = ("runsc", "newer")


@pytest.fixture(params=HANDLERS)
async def runtime(request: pytest.FixtureRequest, client: cri.Client) -> str:
    name: str = request.param
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return name


@pytest.fixture
async def sandbox(run_pod: PodRunner, runtime: str) -> workload.Pod:
    sandbox: workload.Pod = await run_pod(runtime_handler=runtime)
    return sandbox


async def test_a_pod_has_a_kernel_and_a_network_of_its_own(client: cri.Client, sandbox: workload.Pod) -> None:
    id = await sandbox.start("main", "sh", "-c", SERVE)
    await sandbox.says("ready")
    kernel = await client.exec_sync(id, ["uname", "-r"])
    assert kernel.stdout.strip().decode() != os.uname().release
    address = (await client.pod_status(sandbox.id)).network.ip
    inside = await client.exec_sync(id, ["ip", "addr"])
    assert f"{address}/".encode() in inside.stdout

    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{address}/", timeout=20) as answer:
            content: bytes = answer.read()
            return content

    assert await asyncio.to_thread(fetch) == b"served\n"


async def test_a_life_cycle_over_a_restart(node: nodes.Node, client: cri.Client, sandbox: workload.Pod) -> None:
    id = await sandbox.start(
        "main", "sh", "-c", "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.05; done"
    )
    await sandbox.says("hello")
    answer = await client.exec_sync(id, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    await node.restart()
    assert (await client.exec_sync(id, ["echo", "adopted"])).stdout == b"adopted\n"
    await client.stop(id, 10)
    status = await client.container_status(id)
    assert (status.state, status.exit_code) == (values.ContainerState.EXITED, 7)
    assert sandbox.output() == "hello\nbye\n"


async def test_containers_share_the_sentry_and_loopback(client: cri.Client, sandbox: workload.Pod) -> None:
    await sandbox.start("server", "sh", "-c", SERVE)
    await sandbox.says("ready", "server")
    other = await sandbox.start("other", "sleep", "100")
    answer = await client.exec_sync(other, ["wget", "-qO-", "http://127.0.0.1/"])
    assert answer.stdout == b"served\n"
