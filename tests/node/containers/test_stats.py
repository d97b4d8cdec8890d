"""Statistics are what the kernel counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.linux import cgroup
from tests.node.containers import proc
from tools import workload

RunPod = Callable[..., Coroutine[Any, Any, workload.Pod]]
pytestmark = pytest.mark.usefixtures("pulled")
VISIBLE = 60.0  # seconds; 15 on a quiet machine: who counts has the lowest priority
TEN_MB = 10_000_000


async def test_ten_megabytes_written_are_seen(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_pod(host_network=True)
    id = await sandbox.start("main", "sleep", "600")
    [before] = await client.container_stats(id=id)
    done = await client.exec_sync(id, ["sh", "-c", f"head -c {TEN_MB} /dev/zero > /file && mkdir /a && touch /a/b"])
    assert done.exit_code == 0
    began = time.monotonic()
    while True:
        [seen] = await client.container_stats(id=id)
        assert seen.writable_layer is not None
        if (seen.writable_layer.used_bytes or 0) >= TEN_MB:
            break
        assert time.monotonic() - began < VISIBLE
        await asyncio.sleep(0.1)
    assert seen.writable_layer.used_bytes is not None
    assert seen.writable_layer.used_bytes < TEN_MB + (1 << 20)
    assert (seen.writable_layer.inodes_used or 0) >= 3
    assert seen.writable_layer.timestamp > (before.writable_layer.timestamp if before.writable_layer else 0)


async def test_cpu_and_memory_are_the_control_groups(run_pod: RunPod, client: cri.Client) -> None:
    sandbox = await run_pod(host_network=True)
    id = await sandbox.start("main", "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exec sleep 600")
    pid = await proc.pid_of(client, id)
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}/cmdline").read_bytes() != b"sleep\x00600\x00":
            await asyncio.sleep(0.02)
    kernel = cgroup.detect().stats(proc.cgroup_of(pid))
    [seen] = await client.container_stats(id=id)
    assert kernel is not None
    assert seen.cpu is not None
    assert seen.memory is not None
    assert 0 < (kernel.cpu_usage_ns or 0) <= (seen.cpu.usage_core_nano_seconds or 0) < 2 * (kernel.cpu_usage_ns or 0)
    assert abs((seen.memory.usage_bytes or 0) - (kernel.memory_usage or 0)) < 1 << 20  # the kernel counts in batches
    await client.stop(id, 0)
    assert await client.container_stats(id=id) == [] or (await client.container_stats(id=id))[0].cpu is None
