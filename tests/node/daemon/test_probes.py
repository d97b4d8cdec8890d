"""What works is known after a restart, what does not refuses at once, and a probe can be asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ropewalk.client import admin, cri
from ropewalk.errors import Kind, RopewalkError
from tests.node.conftest import PodRunner
from tools import node as nodes

NODE_CONFIG = """
[runtimes.broken]
type = "crun"
path = "/nonexistent/crun"

[runtimes.false]
type = "runc"
path = "/bin/false"
"""


class Unaware(nodes.Node):
    """It begins with no probe of an earlier node."""

    probes = None


NODE_CLASS = Unaware


def calls(node: nodes.Node, method: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log(10_000).splitlines()]
    return [line for line in lines if line.get("method") == method]


async def runtimes(node: nodes.Node, *, probe: bool = False) -> dict[str, admin.Runtime]:
    async with admin.Client(node.address) as client:
        return {runtime.name: runtime for runtime in await client.runtimes(probe=probe)}


async def test_absent_present_and_works_are_told_apart(node: nodes.Node, client: cri.Client) -> None:
    seen = await runtimes(node)
    assert {name: seen[name].level for name in ("crun", "broken", "false")} == {
        "crun": "works",
        "broken": "absent",
        "false": "present",
    }
    assert "apt-get install" in seen["broken"].advice
    assert "exit code 1" in seen["false"].evidence
    offered = {handler.name for handler in (await client.status()).runtime_handlers}
    assert {"", "crun"} <= offered
    assert not offered & {"broken", "false"}


@pytest.mark.parametrize("handler", ["broken", "false"])
async def test_what_does_not_work_refuses_at_once(node: nodes.Node, run_pod: PodRunner, handler: str) -> None:
    await runtimes(node)
    for _ in range(5):
        with pytest.raises(RopewalkError, match=f"runtime handler '{handler}' does not work on this node: ") as caught:
            await run_pod(runtime_handler=handler)
        assert caught.value.kind is Kind.UNAVAILABLE
        assert "\n" not in str(caught.value)
    assert min(call["ms"] for call in calls(node, "RunPodSandbox")[-5:]) < 100  # a few; a probe takes longer


async def test_a_restart_does_not_pay_for_it(node: nodes.Node) -> None:
    await runtimes(node)
    kept = node.state / "probes/crun.json"
    before = kept.stat()
    await node.restart()
    assert (await runtimes(node))["crun"].works
    assert kept.stat().st_ino == before.st_ino  # nothing was probed: it would have been written anew
    assert (await runtimes(node, probe=True))["crun"].works
    assert kept.stat().st_ino != before.st_ino
