"""`shells`: pods and containers by the CRI, removed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ropewalk.client import cri
from tests.node.cri.shells import Shells
from tools import node as nodes


@pytest.fixture
async def shells(node: nodes.Node, client: cri.Client) -> AsyncIterator[Shells]:
    made = Shells(client, node)
    yield made
    await made.close()
