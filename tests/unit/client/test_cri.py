"""The typed client against our own services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.client import cri, endpoint, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec.container import ContainerMetadata, ContainerSpec
from ropewalk.spec.image import AuthConfig, ImageSpec
from ropewalk.spec.pod import LinuxContainerResources, PodSandboxMetadata, PodSpec
from ropewalk.wire import grpc as wire
from tests.fakes import domain
from tests.unit.cri.conftest import Node

POD = PodSpec(metadata=PodSandboxMetadata(name="web", uid="u", namespace="d"), labels={"app": "web"})
CONTAINER = ContainerSpec(metadata=ContainerMetadata(name="main"), image=ImageSpec(image="busybox:1"))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[cri.Client]:
    node = Node(tmp_path)
    await node.health.refresh(["crun", "other"])
    node.images.record(domain.image())
    server = wire.Server(node.services())
    await server.start(str(tmp_path / "s"))
    async with cri.Client(str(tmp_path / "s")) as client:
        yield client
    await server.stop(0)
    node.database.close()


async def test_the_node(client: cri.Client) -> None:
    assert (await client.version()).runtime_name == "ropewalk"
    status = await client.status(verbose=True)
    assert status.condition("RuntimeReady").status
    assert not status.condition("NoSuchCondition").status
    assert [handler.name for handler in status.runtime_handlers] == ["", "crun", "other"]
    assert "config" in status.info
    assert await client.cgroup_driver() == "cgroupfs"


async def test_a_pods_life(client: cri.Client) -> None:
    pod = await client.run_pod(POD)
    status, info = await client.inspect_pod(pod, verbose=True)
    assert (status.metadata, status.ips, status.labels) == (POD.metadata, ["10.0.0.2"], {"app": "web"})
    assert info
    assert [p.id for p in await client.pods(state=values.PodSandboxState.READY, labels={"app": "web"})] == [pod]
    id = await client.create(pod, CONTAINER, POD)
    await client.start(id)
    await client.update(id, LinuxContainerResources(cpu_shares=7))
    told = await client.container_status(id)
    assert (told.state, told.image_id, told.resources.linux.cpu_shares) == (
        values.ContainerState.RUNNING,
        domain.IMAGE_ID,
        7,
    )
    assert await client.exec_sync(id, ["x"]) == values.ExecResult(b"\xffout", b"err", 3)
    await client.reopen_log(id)
    (stats,) = await client.container_stats(pod=pod)
    assert stats.cpu is not None
    assert (stats.cpu.usage_core_nano_seconds, stats.cpu.usage_nano_cores) == (7, None)
    (of_pod,) = await client.pod_stats(id=pod)
    assert of_pod.linux.network is not None
    assert of_pod.linux.network.default_interface.rx_bytes == 1
    await client.stop(id, 1)
    assert [c.id for c in await client.containers(pod=pod, state=values.ContainerState.EXITED)] == [id]
    await client.remove(id)
    await client.stop_pod(pod)
    await client.remove_pod(pod)
    assert await client.pods() == []


async def test_images(client: cri.Client) -> None:
    (image,) = await client.images()
    assert await client.image("busybox:1") == image
    assert await client.image("absent:1") is None
    assert await client.pull(ImageSpec(image="docker.io/library/x:1"), AuthConfig(username="u")) == image.id
    await client.remove_image(image.id)
    assert await client.images() == []
    assert (await client.image_fs_info()).image_filesystems[0].used_bytes == 100


async def test_errors_have_kinds(client: cri.Client) -> None:
    with pytest.raises(RopewalkError, match="no container 'absent'") as caught:
        await client.start("absent")
    assert caught.value.kind is Kind.NOT_FOUND


async def test_nobody_answers(tmp_path: Path) -> None:
    async with cri.Client(str(tmp_path / "absent")) as client:
        with pytest.raises(RopewalkError, match="start `ropewalk serve`") as caught:
            await client.version()
    assert caught.value.kind is Kind.UNAVAILABLE


def test_which_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(endpoint.VARIABLE, raising=False)
    assert endpoint.address() == endpoint.DEFAULT
    monkeypatch.setenv(endpoint.VARIABLE, "unix:///x")
    assert endpoint.address() == "unix:///x"
    assert endpoint.address("/y") == "/y"
