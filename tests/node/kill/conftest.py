"""Nodes of the kill tests have the busybox image; where NODE_CLASS says so, their daemons can be told where to die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ropewalk.spec.image import ImageSpec
from tests.node.kill import kernel
from tools import images, workload
from tools import node as nodes


@pytest.fixture(scope="module")
def node(node: nodes.Node) -> nodes.Node:
    asyncio.run(pull(node))
    return node


async def pull(node: nodes.Node) -> None:
    async with node.client() as client:
        await client.pull(ImageSpec(image=images.BUSYBOX))


@pytest.fixture(autouse=True)
async def emptied(node: nodes.Node) -> AsyncIterator[None]:
    """A test that fails leaves the next one an empty node."""
    yield
    if node.process is None or node.process.poll() is not None:
        await node.start()
    async with node.client() as client:
        await workload.remove_everything(client)
    kernel.until(lambda: [line for line in kernel.links(node) if line.startswith("link rw")])
