"""A node that went down with pods: what kubelet is told afterwards, and that all of it can be removed.

Last by name, because every other test's VM would be another one afterwards.
"""

from __future__ import annotations

import asyncio

from ropewalk.client import cri, values
from tests.vm import guest
from tests.vm.conftest import PodRunner, both_drivers
from tools import images

SHUTDOWN = 30  # seconds for all of it beside the grace; systemd alone would wait 90 for a unit
TRIALS = 60.0  # seconds within which the trials of handlers, which a new boot asks for, have ended

ENDS = "trap 'exit 7' TERM"
STAYS = "trap '' TERM"
GRACE = 10  # shutdown_grace


@both_drivers
async def test_pods_of_before_a_reboot(lab: guest.Lab, client: cri.Client, run_pod: PodRunner, driver: str) -> None:
    """Every container got its stop signal and the grace; the shutdown does not wait for any longer."""
    sandbox = await run_pod()
    ends = await sandbox.start("ends", "sh", "-c", f"{ENDS}; sleep 600 & wait")
    stays = await sandbox.start("stays", "sh", "-c", f"{STAYS}; while :; do sleep 1; done")
    created = await sandbox.create("created", "sleep", "600")
    before = lab.vm.boot_id
    await asyncio.to_thread(lab.vm.reboot)
    assert lab.vm.boot_id != before
    await lab.ready()
    async with cri.Client(lab.address) as after:
        codes = [(await after.container_status(id)).exit_code for id in (ends, stays, created)]
        assert codes[:2] == [7, 137]
        assert (await after.container_status(created)).state is values.ContainerState.EXITED
        await removable(lab, after, sandbox, ends)
    assert shutdown_took(lab) < GRACE + SHUTDOWN


def shutdown_took(lab: guest.Lab) -> float:
    """Seconds of the last boot's life from the end of the daemon to the end of the journal, which is systemd's last."""
    journal = ("journalctl", "--boot=-1", "--output=short-unix", "--quiet")
    stopping = lab.run(*journal, "--unit=ropewalk", "--grep=^Stopping ").text.splitlines()
    last = lab.run(*journal, "--lines=1").text
    return float(last.split()[0]) - float(stopping[-1].split()[0])


async def test_pods_of_before_a_power_cut(lab: guest.Lab, client: cri.Client, run_pod: PodRunner) -> None:
    """What was written to disk is known after it; rows of the last seconds may be lost, as state/database.py says, so
    the disk is asked to write."""
    sandbox = await run_pod()
    id = await sandbox.start("main", "sleep", "600")
    created = await sandbox.create("second", "sleep", "600")
    lab.run("sync")
    before = lab.vm.boot_id
    await asyncio.to_thread(lab.vm.reset)
    assert lab.vm.boot_id != before
    await lab.ready()
    async with cri.Client(lab.address) as after:
        assert (await after.container_status(id)).exit_code == 255
        assert (await after.container_status(created)).state is values.ContainerState.EXITED
        await removable(lab, after, sandbox, id)


async def removable(lab: guest.Lab, after: cri.Client, sandbox: guest.Pod, id: str) -> None:
    """After the boot the pod is known, not ready, and removable; one of its name can run again."""
    status = await after.pod_status(sandbox.id)
    assert status.state is values.PodSandboxState.NOTREADY
    assert status.metadata == sandbox.spec.metadata
    ended = await after.container_status(id)
    assert ended.state is values.ContainerState.EXITED
    assert ended.finished_at >= ended.started_at > 0
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
        async with asyncio.timeout(TRIALS):
            while lab.processes(lab.own):
                await asyncio.sleep(0.5)
