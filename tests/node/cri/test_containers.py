"""What critest's [Container], [Container Mount Propagation | OOM | Mount Readonly] and [Idempotence] assert."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.client.values import ContainerState
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount
from ropewalk.spec.container import ContainerMetadata, Mount, MountPropagation
from ropewalk.spec.image import ImageSpec
from ropewalk.spec.pod import LinuxContainerResources, NamespaceMode
from tests.node.cri.shells import Shells
from tools import images

LABELS = {"app": "conformance", "key.with/slash": ""}
NOTES = {"annotation": "a value\nof two lines"}


async def test_created_started_stopped_removed(shells: Shells) -> None:
    pod, client = await shells.pod(), shells.client
    id = await pod.create("main", "sleep", "600", labels=LABELS, annotations=NOTES)
    (listed,) = await client.containers(id=id)
    status = await client.container_status(id)
    assert (listed.state, status.state) == (ContainerState.CREATED, ContainerState.CREATED)
    assert listed.metadata == status.metadata == ContainerMetadata("main")
    assert (listed.labels, status.labels, listed.annotations, status.annotations) == (LABELS, LABELS, NOTES, NOTES)
    await client.start(id)
    assert (await client.container_status(id)).state is ContainerState.RUNNING
    await client.stop(id, timeout=0)
    await client.stop(id, timeout=0)
    assert (await client.container_status(id)).state is ContainerState.EXITED
    await client.remove(id)
    assert await client.containers(id=id) == []


async def test_a_created_and_a_running_container_are_removed(shells: Shells) -> None:
    pod = await shells.pod()
    for id in (await pod.create("created"), await shells.start(pod, "sleep", "600")):
        await shells.client.remove(id)
        await shells.client.remove(id)
    assert await shells.client.containers(pod=pod.id) == []


async def test_the_stop_signal_reaches_a_process_in_a_shared_pid_namespace(shells: Shells) -> None:
    pod = await shells.pod(pid=NamespaceMode.POD)
    id = await shells.start(pod, "top")
    await shells.client.stop(id, timeout=60)
    status = await shells.client.container_status(id)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 143)
    assert (status.finished_at - status.started_at) / 1e9 < 30


async def test_commands_run_and_end_with_their_time(shells: Shells) -> None:
    id = await shells.start(await shells.pod(), "sleep", "600")
    done = await shells.client.exec_sync(id, ["echo", "-n", "hello"])
    assert (done.stdout, done.stderr, done.exit_code) == (b"hello", b"", 0)
    with pytest.raises(RopewalkError) as caught:
        await shells.client.exec_sync(id, ["sleep", "4321"], timeout=1)
    assert caught.value.kind is Kind.TIMEOUT
    assert b"4321" not in (await shells.client.exec_sync(id, ["ps"])).stdout


async def test_statistics_of_those_asked_for(shells: Shells) -> None:
    pod, client = await shells.pod(), shells.client
    labels = {"number": "1"}
    first = await shells.start(pod, "sleep", "600", labels=labels)
    second, third = [await shells.start(pod, "sleep", "600") for _ in range(2)]
    (one,) = await client.container_stats(id=first)
    assert (one.attributes.id, bool(one.attributes.metadata.name)) == (first, True)
    assert one.cpu is not None
    assert one.memory is not None
    assert one.cpu.timestamp > 0
    assert one.memory.timestamp > 0
    assert {stats.attributes.id for stats in await client.container_stats(pod=pod.id)} == {first, second, third}
    assert [stats.attributes.id for stats in await client.container_stats(pod=pod.id, labels=labels)] == [first]
    assert await client.container_stats(pod=pod.id, labels={"number": "2"}) == []
    assert {first, second, third} <= {stats.attributes.id for stats in await client.container_stats()}


async def test_volumes_and_a_host_path_that_is_a_link(shells: Shells, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("content\n")
    (tmp_path / "link").symlink_to("real")
    for source in ("real", "link"):
        volume = Mount("/volume", str(tmp_path / source), selinux_relabel=True)
        assert (await shells.say("cat /volume/file", mounts=[volume])).stdout == "content\n"


async def test_a_reopened_log_is_there_at_once_and_the_old_one_rests(shells: Shells) -> None:
    pod = await shells.pod()
    id = await shells.start(pod, "sh", "-c", "while :; do echo tick; sleep 0.05; done", name="loop")
    log = Path((await shells.client.container_status(id)).log_path)
    await pod.says("tick", "loop")
    log.rename(old := log.with_suffix(".old"))
    await shells.client.reopen_log(id)
    assert log.exists()
    size = old.stat().st_size
    await pod.says("tick\ntick\ntick", "loop")
    assert old.stat().st_size == size
    assert all(line.split(" ")[1:] == ["stdout", "F", "tick"] for line in old.read_text().splitlines())


async def test_out_of_memory_is_said(shells: Shells) -> None:
    limit = LinuxContainerResources(memory_limit_in_bytes=15 << 20, memory_swap_limit_in_bytes=15 << 20)
    said = await shells.say("exec dd if=/dev/zero of=/dev/null bs=20M", resources=limit)
    assert (said.status.exit_code, said.status.reason) == (137, "OOMKilled")


# Mounts.


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a shared mount; what tests mount below it is unmounted."""
    mount.bind(str(tmp_path), str(tmp_path))
    mount.set_propagation(str(tmp_path), "shared")
    (tmp_path / "from-node").mkdir()
    (tmp_path / "from-container").mkdir()
    yield tmp_path
    for name in ("from-node", "from-container", "."):
        mount.umount_all(str(tmp_path / name))


@pytest.mark.parametrize(
    ("propagation", "inward", "outward"),
    [
        (MountPropagation.PRIVATE, False, False),
        (MountPropagation.HOST_TO_CONTAINER, True, False),
        (MountPropagation.BIDIRECTIONAL, True, True),
    ],
    ids=["private", "slave", "shared"],
)
async def test_mounts_propagate_as_asked(
    shells: Shells, tree: Path, propagation: MountPropagation, *, inward: bool, outward: bool
) -> None:
    pod = await shells.pod(privileged=True)
    volume = Mount("/volume", str(tree), propagation=propagation)
    id = await shells.start(pod, "sleep", "600", mounts=[volume], security={"privileged": True})
    assert (await shells.client.container_status(id)).mounts == [volume]
    mount.tmpfs(str(tree / "from-node"), size=1 << 20, mode=0o755)
    seen = await shells.client.exec_sync(id, ["grep", "-c", "/volume/from-node", "/proc/mounts"])
    assert seen.stdout == (b"1\n" if inward else b"0\n")
    made = await shells.client.exec_sync(id, ["mount", "-t", "tmpfs", "none", "/volume/from-container"])
    assert made.exit_code == 0, made
    assert mount.is_mount(str(tree / "from-container")) is outward


@pytest.mark.parametrize("recursive", [True, False])
async def test_a_mount_below_a_read_only_one(shells: Shells, tree: Path, *, recursive: bool) -> None:
    mount.tmpfs(str(tree / "from-node"), size=1 << 20, mode=0o755)
    volume = Mount("/volume", str(tree), readonly=True, recursive_read_only=recursive)
    said = await shells.say("touch /volume/from-node/foo; touch /volume/bar", mounts=[volume])
    refused = ["touch: /volume/bar: Read-only file system"]
    if recursive:
        refused.insert(0, "touch: /volume/from-node/foo: Read-only file system")
    assert said.stderr.splitlines() == refused
    assert os.path.exists(tree / "from-node" / "foo") is not recursive
    assert said.status.mounts == [volume]


@pytest.mark.parametrize(
    "volume",
    [
        Mount("/v", "/tmp", recursive_read_only=True),
        Mount("/v", "/tmp", True, recursive_read_only=True, propagation=MountPropagation.HOST_TO_CONTAINER),
        Mount("/v", "/tmp", True, recursive_read_only=True, propagation=MountPropagation.BIDIRECTIONAL),
    ],
    ids=["not read-only", "slave", "shared"],
)
async def test_recursive_read_only_is_refused_where_it_cannot_be(shells: Shells, volume: Mount) -> None:
    pod = await shells.pod(privileged=True)
    with pytest.raises(RopewalkError, match="recursive_read_only") as caught:
        await pod.create("main", "sleep", "600", mounts=[volume])
    assert caught.value.kind is Kind.INVALID


async def test_an_image_as_a_volume_is_never_writable(shells: Shells) -> None:
    pod = await shells.pod()
    with pytest.raises(RopewalkError, match="/v"):
        await pod.create("main", "sleep", "600", mounts=[Mount("/v", image=ImageSpec(image=images.BUSYBOX))])


# What is not there.


async def test_stopping_and_removing_what_never_was(client: cri.Client) -> None:
    id = str(uuid.uuid4())
    await client.stop(id)
    await client.remove(id)
    await client.stop_pod(id)
    await client.remove_pod(id)
    for _ in range(2):
        await client.remove_image(f"sha256:{'0' * 64}")
