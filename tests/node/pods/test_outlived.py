"""Something is still in a pod's cgroup when the pod ends: nobody's process holds up its end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from ropewalk.client import cri
from ropewalk.linux import cgroup
from tests.node.conftest import PodRunner
from tools import node as nodes

pytestmark = pytest.mark.usefixtures("pulled")
SECONDS = 30


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


async def test_what_outlives_the_pod_is_killed_and_told(
    node: nodes.Node, client: cri.Client, run_pod: PodRunner, stray: subprocess.Popen[bytes]
) -> None:
    """As the runtime that a killed shim leaves behind in the middle of its work."""
    sandbox = await run_pod()
    await sandbox.start("main", "sleep", "600")
    cgroups = cgroup.detect()
    (leaf,) = [path for path in cgroups.list("/") if path.endswith(f"/ropewalk-monitors-{sandbox.id[:12]}")]
    for directory in cgroups.directories(leaf):
        if os.path.isdir(directory):
            cgroup.write(f"{directory}/cgroup.procs", str(stray.pid))
    await client.stop_pod(sandbox.id)
    assert stray.wait(SECONDS) == -9
    assert not cgroups.exists(leaf)
    (told,) = [line for line in node.log().splitlines() if "killed what outlived the pod" in line]
    assert "sleep 600" in told
