"""A node of its own for each test: the test's thread in a new network namespace (lab.py), and its CNI (plugins.py)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.linux import libc
from ropewalk.network import cni, discovery
from tests.node.network.lab import Lab
from tests.node.network.plugins import Net


@pytest.fixture
def own_namespace() -> Iterator[None]:
    """The test's thread (the process's first, which /proc/net follows) in a new network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.unshare(libc.CLONE_NEWNET)
        yield
    finally:
        libc.setns(before, libc.CLONE_NEWNET)
        os.close(before)


@pytest.fixture
async def lab(own_namespace: None, tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path)
    made.build()
    yield made
    await made.close()


@pytest.fixture
async def net(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    monkeypatch.setattr(cni, "_FIRST_LOOK", 10.0)
    monkeypatch.setattr(discovery, "_RETRY", 0.1)
    monkeypatch.setattr(discovery, "_QUIET", 0.02)
    made = Net(lab)
    yield made
    await made.close()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Any]:
    """Wait, with a deadline, for something that the kernel does in the background."""

    async def wait(true: Callable[[], bool], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.005)

    return wait
