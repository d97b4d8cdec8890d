"""Each kill test begins and ends with an empty node; where NODE_CLASS says so, its daemon can be told where to die."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.node.kill import kernel
from tools import node as nodes
from tools import workload


@pytest.fixture(autouse=True)
async def emptied(pulled: nodes.Node) -> AsyncIterator[None]:
    """A test that fails leaves the next one an empty node."""
    yield
    if pulled.process is None or pulled.process.poll() is not None:
        await pulled.start()
    async with pulled.client() as client:
        await workload.remove_everything(client)
    kernel.until(lambda: [line for line in kernel.links(pulled) if line.startswith("link rw")])
