"""A client like the kubelet of a daemon that is killed: what was not answered is asked again of the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from tools import node as nodes

PATIENCE = 60.0  # seconds: as long is a daemon away at most, on a crowded machine
STATES = (values.ContainerState.RUNNING, values.ContainerState.EXITED)
T = TypeVar("T")


class Client:
    def __init__(self, node: nodes.Node) -> None:
        self.node = node

    def is_answer(self, error: RopewalkError) -> bool:
        """Whether a daemon said that, or none was there."""
        return error.kind is not Kind.UNAVAILABLE

    async def answered(self, call: Callable[[cri.Client], Awaitable[T]]) -> T:
        """The answer, from this daemon or from one of the next."""
        deadline = time.monotonic() + PATIENCE
        while True:
            async with self.node.client() as client:
                try:
                    return await call(client)
                except RopewalkError as error:
                    if self.is_answer(error) or time.monotonic() > deadline:
                        raise
            await asyncio.sleep(0.02)

    async def start(self, id: str) -> None:
        """A start that was not answered may have happened."""
        try:
            await self.answered(lambda client: client.start(id))
        except RopewalkError:
            status = await self.answered(lambda client: client.container_status(id))
            assert status.state in STATES
