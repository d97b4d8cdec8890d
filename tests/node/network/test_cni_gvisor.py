"""A gVisor pod on a CNI network: its address is the plugin's, its network stack the Sentry's."""

from __future__ import annotations

import asyncio
import sys

import pytest

from ropewalk.client import cri
from tests.node.conftest import PodRunner
from tests.node.kill import plugged

NODE_CLASS = plugged.Node
# httpd listens, and then goes into the background.
SERVE = "mkdir /www; echo served > /www/index.html; httpd -p 80 -h /www; echo ready; exec sleep 600"
FETCH = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
connection.request("GET", "/")
sys.stdout.buffer.write(connection.getresponse().read())
"""


@pytest.fixture(scope="module", autouse=True)
def plugged_in(pulled: plugged.Node) -> None:
    asyncio.run(pulled.plug())


async def test_it_answers_at_its_address(node: plugged.Node, client: cri.Client, run_pod: PodRunner) -> None:
    """Asked from where the daemon lives: that is the only place with a route."""
    sandbox = await run_pod(runtime_handler="runsc")
    await sandbox.start("main", "sh", "-c", SERVE)
    await sandbox.says("ready")
    address = (await client.pod_status(sandbox.id)).network.ip
    command = [*node.enter(), sys.executable, "-c", FETCH, address]
    asking = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    answer, _ = await asking.communicate()
    assert answer == b"served\n"
