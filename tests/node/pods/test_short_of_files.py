"""A daemon that may open no more files for a while: an end that it cannot read now is told truly later."""

from __future__ import annotations

import asyncio
import os
import resource
import signal

import pytest

from ropewalk.linux import process
from tests.node.conftest import PodRunner
from tools import node as nodes

pytestmark = pytest.mark.usefixtures("pulled")
SECONDS = 20


async def test_an_end_is_not_lost_for_want_of_a_descriptor(node: nodes.Node, run_pod: PodRunner) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "86397")
    (pid,) = process.find(b"86397")
    limits = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(SECONDS):
            while "cannot wait for its end, trying again" not in node.log():
                await asyncio.sleep(0.05)
    finally:
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, limits)
    ended = await sandbox.exited(id)
    assert (ended.exit_code, ended.reason) == (137, "Error")
