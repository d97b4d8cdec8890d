"""A node that went down with pods: what kubelet is told afterwards, and that all of it can be removed.

Last by name, because every other test's VM would be another one afterwards.
"""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.client import cri, values
from tests.vm import guest
from tests.vm.conftest import PodRunner
from tools import images


@pytest.mark.parametrize("how", ["reboot", "power cut"])
async def test_pods_of_before(lab: guest.Lab, client: cri.Client, run_pod: PodRunner, how: str) -> None:
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600")
    created = await sandbox.create("second", "sleep", "600")
    await asyncio.sleep(1)
    before = lab.vm.boot_id
    await asyncio.to_thread(lab.vm.reboot if how == "reboot" else lab.vm.reset)
    assert lab.vm.boot_id != before
    await lab.ready()
    async with cri.Client(lab.address) as after:
        status = await after.pod_status(sandbox.id)
        assert status.state is values.PodSandboxState.NOTREADY
        assert status.metadata == sandbox.spec.metadata
        ended = await after.container_status(id)
        assert ended.state is values.ContainerState.EXITED
        assert ended.exit_code == (255 if how == "power cut" else ended.exit_code)
        assert ended.exit_code != 0
        assert ended.finished_at >= ended.started_at > 0
        assert (await after.container_status(created)).state is not values.ContainerState.RUNNING
        assert await after.image(images.BUSYBOX) is not None
        await after.stop_pod(sandbox.id)
        await after.remove_pod(sandbox.id)
        assert sandbox.id not in [pod.id for pod in await after.pods()]
        assert not lab.exists(f"{guest.CGROUPS}{sandbox.group}")
        fresh = guest.Pod(lab, after, await after.run_pod(sandbox.spec), sandbox.spec)
        await fresh.start("main", "sleep", "600")
        assert len(lab.processes(fresh.cgroup())) == 1
        await fresh.remove()
