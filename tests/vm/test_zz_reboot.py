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

# systemd gives what does not end on SIGTERM 90 s before it goes down; a pid namespace's first process ignores it, and
# one that was created and not started is such.
ENDS = "trap 'exit 0' TERM"


@pytest.mark.parametrize("how", ["reboot", "power cut"])
async def test_pods_of_before(lab: guest.Lab, client: cri.Client, run_pod: PodRunner, how: str) -> None:
    """What was written to disk before a power cut is known after it; rows of the last seconds may be lost, as
    state/database.py says, so the disk is asked to write."""
    sandbox = await run_pod()
    id = await sandbox.start("main", "sh", "-c", f"{ENDS}; sleep 600 & wait")
    if how == "power cut":
        created = await sandbox.create("second", "sleep", "600")
    lab.run("sync")
    before = lab.vm.boot_id
    await asyncio.to_thread(lab.vm.reboot if how == "reboot" else lab.vm.reset)
    assert lab.vm.boot_id != before
    await lab.ready()
    async with cri.Client(lab.address) as after:
        status = await after.pod_status(sandbox.id)
        assert status.state is values.PodSandboxState.NOTREADY
        assert status.metadata == sandbox.spec.metadata
        ended = await after.container_status(id)
        assert (ended.state, ended.exit_code) == (values.ContainerState.EXITED, 255)
        assert ended.finished_at >= ended.started_at > 0
        if how == "power cut":
            assert (await after.container_status(created)).state is values.ContainerState.EXITED
        assert await after.image(images.BUSYBOX) is not None
        await after.stop_pod(sandbox.id)
        await after.remove_pod(sandbox.id)
        assert sandbox.id not in [pod.id for pod in await after.pods()]
        assert not lab.exists(f"{guest.CGROUPS}{sandbox.group}")
        lab.run("mkdir", "-p", sandbox.spec.log_directory)
        fresh = guest.Pod(lab, after, await after.run_pod(sandbox.spec), sandbox.spec)
        await fresh.start("main", "sh", "-c", "echo again; exec sleep 600")
        await fresh.says("again")
        await fresh.remove()


async def test_a_power_cut_at_once_leaves_a_node_that_works(
    lab: guest.Lab, client: cri.Client, run_pod: PodRunner
) -> None:
    """Whatever was lost, images that were there are whole, and what no record owns is gone."""
    sandbox = await run_pod()
    await sandbox.start("main", "sh", "-c", "echo written >/file; sleep 600")
    await asyncio.to_thread(lab.vm.reset)
    await lab.ready()
    async with cri.Client(lab.address) as after:
        for known in await after.pods():
            assert known.state is values.PodSandboxState.NOTREADY
            await after.stop_pod(known.id)
            await after.remove_pod(known.id)
        spec = sandbox.spec
        fresh = guest.Pod(lab, after, await after.run_pod(spec), spec)
        await fresh.start("main", "sh", "-c", "test ! -e /file && echo whole; exec sleep 600")
        await fresh.says("whole")
        await fresh.remove()
        assert lab.processes("/ropewalk") == []
