"""The other monitor under the same kills."""

from __future__ import annotations

import pytest

from tests.node.kill import killable, randomly

NODE_CLASS = killable.Node
NODE_CONFIG = "ready = 0\n"  # [network]
NODE_ENVIRONMENT = {"ROPEWALK_RUNTIMES_CRUN_MONITOR": "conmon"}


@pytest.mark.timeout(900)
async def test_kills_leave_nothing(node: killable.Node) -> None:
    await randomly.leave_nothing(node, "crun", randomly.of_oci(node, "crun"), randomly.kills(200))
