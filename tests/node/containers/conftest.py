"""Nodes of these tests have the busybox image."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.spec.image import ImageSpec
from tools import images
from tools import node as nodes


@pytest.fixture(scope="module")
def node(node: nodes.Node) -> nodes.Node:
    asyncio.run(pull(node))
    return node


async def pull(node: nodes.Node) -> None:
    async with node.client() as client:
        await client.pull(ImageSpec(image=images.BUSYBOX))
