"""A gVisor pod on a CNI network: its address is the plugin's, its network stack the Sentry's."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

from ropewalk.client import cri
from tests.node.conftest import PodRunner
from tests.node.kill import plugged

NODE_CLASS = plugged.Node


@pytest.fixture(scope="module", autouse=True)
def plugged_in(pulled: plugged.Node) -> None:
    asyncio.run(pulled.plug())


async def test_it_answers_at_its_address(client: cri.Client, run_pod: PodRunner) -> None:
    async with asyncio.timeout(30):
        while "runsc" not in {found.name for found in (await client.status()).runtime_handlers}:
            await asyncio.sleep(0.1)
    sandbox = await run_pod(runtime_handler="runsc")
    await sandbox.start(
        "main", "sh", "-c", "mkdir /www; echo served > /www/index.html; echo ready; exec httpd -f -p 80 -h /www"
    )
    await sandbox.says("ready")
    address = (await client.pod_status(sandbox.id)).network.ip

    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
            content: bytes = answer.read()
            return content

    assert await asyncio.to_thread(fetch) == b"served\n"
