"""`shells`: pods and containers by the CRI, on each runtime, removed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ropewalk.client import cri
from tests.node.cri.shells import Shells
from tools import node as nodes


@pytest.fixture(params=["crun", "runc"])
async def shells(request: pytest.FixtureRequest, node: nodes.Node, client: cri.Client) -> AsyncIterator[Shells]:
    made = Shells(client, node, request.param)
    yield made
    await made.close()
