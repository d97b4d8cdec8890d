"""A full disk refuses what is new and stops nothing: running pods run, and Stop and Remove work."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount
from ropewalk.spec.image import ImageSpec
from tests.node.kill import kernel
from tools import images, workload
from tools import node as nodes

BIG = "docker.io/ropewalk/big:latest"  # 48 MiB that do not compress
pytestmark = pytest.mark.usefixtures("pulled")
SIZE = 64 << 20


class Node(nodes.Node):
    """Its root directory is a small file system of its own."""

    async def start(self) -> float:
        self.root.mkdir(exist_ok=True)
        if not mount.is_mount(str(self.root)):
            mount.tmpfs(str(self.root), size=SIZE)
        return await super().start()

    def left(self) -> list[str]:
        mount.umount_all(str(self.root))
        return super().left()


NODE_CLASS = Node
NODE_CONFIG = "ready = 0\n"  # [network]


@contextlib.contextmanager
def full(node: nodes.Node) -> Iterator[None]:
    """Not a byte is left."""
    ballast = node.root / "ballast"
    fill(ballast)
    try:
        yield
    finally:
        ballast.unlink()


def fill(ballast: Path) -> None:
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


@pytest.fixture
async def pods(node: nodes.Node, client: cri.Client) -> AsyncIterator[list[workload.Pod]]:
    """Two running pods."""
    made = [
        await workload.run_pod(client, workload.pod_spec(logs=node.logs, host_network=host)) for host in (False, True)
    ]
    for sandbox in made:
        await sandbox.start("main", "sh", "-c", "trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done")
        await sandbox.says("ready")
    yield made
    async with node.client() as last:
        await workload.remove_everything(last)


async def test_a_pull_that_does_not_fit(node: nodes.Node, client: cri.Client, pods: list[workload.Pod]) -> None:
    before = without_processes(node)
    with pytest.raises(RopewalkError) as refused:
        await client.pull(ImageSpec(image=BIG))
    assert refused.value.kind is Kind.EXHAUSTED
    assert await client.image(BIG) is None
    kernel.until(lambda: kernel.missing_and_added(before, without_processes(node)))
    for sandbox in pods:
        assert (await client.exec_sync(sandbox.containers["main"], ["echo", "hi"])).stdout == b"hi\n"
    other = await workload.run_pod(client, workload.pod_spec(logs=node.logs))
    assert (await other.exited(await other.start("main", "true"))).exit_code == 0


async def test_pods_stop_and_go(node: nodes.Node, client: cri.Client, pods: list[workload.Pod]) -> None:
    with full(node):
        for sandbox in pods:
            id = sandbox.containers["main"]
            assert (await client.exec_sync(id, ["echo", "hi"])).stdout == b"hi\n"
            await client.stop(id, 10)
            assert (await client.container_status(id)).exit_code == 4
            await client.stop_pod(sandbox.id)
            assert (await client.pod_status(sandbox.id)).state is values.PodSandboxState.NOTREADY
            await client.remove_pod(sandbox.id)
        assert (await client.pods(), await client.containers()) == ([], [])
        assert nothing_of_pods(node) == []
    again = await workload.run_pod(client, workload.pod_spec(logs=node.logs))
    assert (await again.exited(await again.start("main", "true"))).exit_code == 0


async def test_a_removal_is_written_before_its_address_is_given_again(
    node: nodes.Node, client: cri.Client, pods: list[workload.Pod]
) -> None:
    with full(node):
        for sandbox in pods:
            await sandbox.remove()
    fresh = await workload.run_pod(client, workload.pod_spec(logs=node.logs))
    await node.restart()
    async with node.client() as after:
        assert [found.id for found in await after.pods()] == [fresh.id]


async def test_what_is_new_is_refused_with_its_kind(node: nodes.Node, client: cri.Client) -> None:
    with full(node):
        kinds = set()
        for _ in range(20):  # what fits into the last page of the log may still be made
            try:
                await workload.run_pod(client, workload.pod_spec("x" * 60, logs=node.logs))
            except RopewalkError as error:
                kinds.add(error.kind)
        assert kinds == {Kind.EXHAUSTED}
        await workload.remove_everything(client)
    assert await client.images(images.BUSYBOX) != []
    kernel.until(lambda: nothing_of_pods(node))


async def test_a_daemon_killed_on_a_full_disk_adopts(node: nodes.Node, pods: list[workload.Pod]) -> None:
    with full(node):
        await node.restart()
        fill(node.root / "ballast")
        async with node.client() as client:
            ids = {sandbox.id for sandbox in pods}
            for found in await client.pods():  # the removals of the other tests may not have been written
                assert (found.state is values.PodSandboxState.READY) is (found.id in ids)
                ids.discard(found.id)
            assert ids == set()
            for sandbox in pods:
                assert (
                    await client.container_status(sandbox.containers["main"])
                ).state is values.ContainerState.RUNNING
                await client.stop_pod(sandbox.id)
                await client.remove_pod(sandbox.id)
            kernel.until(lambda: nothing_of_pods(node))


def without_processes(node: nodes.Node) -> set[str]:
    """The pods' sleep comes and goes."""
    return {line for line in kernel.lines(node) if not line.startswith("process ")}


def nothing_of_pods(node: nodes.Node) -> list[str]:
    """What the kernel has of pods: processes, namespaces, links, mounts but the disk itself."""
    disk = f"mount {node.root}"
    found = [*kernel.processes(node), *kernel.namespaces(node), *kernel.links(node), *kernel.mounts(node)]
    return [line for line in found if line != disk and not line.endswith(f"link ropewalk-{node.tag}")]
