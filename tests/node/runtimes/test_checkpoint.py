"""Checkpoints of gVisor's containers through the CRI: what runs goes on, and what is restored goes on from there."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec.container import ContainerMetadata, Mount
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import gvisor, images, workload
from tools import node as nodes

NODE_CONFIG = f"""
[checkpoints]
restore_from = ["/"]
[runtimes.newer]
type = "runsc"
path = "{gvisor.found()}"
"""
COUNT = "i=0; echo 0 >/count; while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 0.05; done"
SERVE = "mkdir /www; echo served > /www/index.html; httpd -p 80 -h /www; echo ready; " + COUNT


@pytest.fixture
async def runtime(client: cri.Client) -> str:
    """The build that can."""
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return "newer"


@pytest.fixture
async def sandbox(run_pod: PodRunner, runtime: str) -> workload.Pod:
    return await run_pod(runtime_handler=runtime)


@pytest.mark.usefixtures("runtime")
async def test_what_cannot_is_refused_by_name(client: cri.Client, run_pod: PodRunner, tmp_path: Path) -> None:
    """CRIU is not here; Debian's runsc of 2022 would lose the pod."""
    for name in ("crun", "runsc"):
        sandbox = await run_pod(runtime_handler=name)
        id = await sandbox.start("main", "sleep", "600")
        with pytest.raises(RopewalkError, match=f"'{name}' cannot checkpoint or restore a container") as caught:
            await client.checkpoint(id, str(tmp_path / "a.tar"))
        assert caught.value.kind is Kind.UNSUPPORTED
        assert "newer can" in str(caught.value)
        assert (await client.container_status(id)).state is values.ContainerState.RUNNING
    assert os.listdir(tmp_path) == []


async def test_what_has_ended_is_no_part_of_it(
    client: cri.Client, sandbox: workload.Pod, run_pod: PodRunner, tmp_path: Path
) -> None:
    """Containers that initialise a pod; volumes are those of the pod that it is restored to."""
    init = await sandbox.start("init", "sh", "-c", "exit 3")
    assert (await sandbox.exited(init)).exit_code == 3
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "whose").write_text(name)
    loop = f"cat /volume/whose; {COUNT}"
    id = await sandbox.start("main", "sh", "-c", loop, mounts=[Mount("/volume", str(tmp_path / "one"))])
    await reaches(client, id, 3)
    await client.checkpoint(id, str(tmp_path / "a.tar"))
    other = await run_pod(runtime_handler="newer")
    early = await other.start("init", "sh", "-c", "exit 4")
    assert (await other.exited(early)).exit_code == 4
    mounts = [Mount("/volume", str(tmp_path / "two"))]
    restored = await other.start("main", reference=str(tmp_path / "a.tar"), mounts=mounts)
    await reaches(client, restored, 5)
    assert (await client.exec_sync(restored, ["cat", "/volume/whose"])).stdout == b"two"
    assert (await client.container_status(early)).exit_code == 4
    await client.remove(early)
    assert (await client.pod_status(other.id)).state is values.PodSandboxState.READY
    sidecar = await other.start("sidecar", "sh", "-c", "echo beside; sleep 600")
    assert await other.says("beside", "sidecar") == "beside\n"
    await client.stop(sidecar, 0)
    assert (await client.container_status(sidecar)).exit_code == 137
    with pytest.raises(RopewalkError, match="has other containers: main"):
        await other.create("late", reference=str(tmp_path / "a.tar"))


async def test_a_dead_restored_sentry_makes_its_pod_not_ready(
    client: cri.Client, sandbox: workload.Pod, run_pod: PodRunner, tmp_path: Path
) -> None:
    id = await sandbox.start("main", "sh", "-c", COUNT)
    await client.checkpoint(id, str(tmp_path / "a.tar"))
    other = await run_pod(runtime_handler="newer")
    restored = await other.start("main", reference=str(tmp_path / "a.tar"))
    info = json.loads((await client.inspect(restored, verbose=True))[1]["info"])
    os.kill(info["pid"], signal.SIGKILL)
    assert (await other.exited(restored)).exit_code == 137
    async with asyncio.timeout(30):
        while (await client.pod_status(other.id)).state is values.PodSandboxState.READY:
            await asyncio.sleep(0.02)


async def test_what_is_no_sentry_fails_the_start_and_leaves_the_node_well(
    node: nodes.Node, client: cri.Client, sandbox: workload.Pod, run_pod: PodRunner, tmp_path: Path
) -> None:
    """Its own checkpoint with the memory of it replaced by noise."""
    id = await sandbox.start("main", "sh", "-c", COUNT)
    await client.checkpoint(id, str(tmp_path / "a.tar"))
    with tarfile.open(tmp_path / "a.tar") as tar, tarfile.open(tmp_path / "b.tar", "w") as noise:
        for member in tar:
            content = tar.extractfile(member)
            if member.name.startswith("checkpoint/"):
                noise.addfile(member, io.BytesIO(os.urandom(member.size)))
            else:
                noise.addfile(member, content)
    os.chmod(tmp_path / "b.tar", 0o600)
    other = await run_pod(runtime_handler="newer")
    with pytest.raises(RopewalkError, match="container"):
        await other.start("main", reference=str(tmp_path / "b.tar"))
    await other.remove()
    assert os.listdir(node.root / "checkpoints") == []
    assert (await client.exec_sync(id, ["cat", "/count"])).exit_code == 0


async def counted(client: cri.Client, id: str) -> int:
    """What the container's counter has written to a file of its own."""
    async with asyncio.timeout(20):
        while not (text := (await client.exec_sync(id, ["cat", "/count"])).stdout.strip()):
            await asyncio.sleep(0.02)
    return int(text)


async def reaches(client: cri.Client, id: str, number: int) -> int:
    async with asyncio.timeout(20):
        while (seen := await counted(client, id)) < number:
            await asyncio.sleep(0.02)
    return seen


async def test_by_the_command(node: nodes.Node, client: cri.Client, runtime: str, tmp_path: Path) -> None:
    """Saved, removed, and run again from the file."""
    environment = {**os.environ, "ROPEWALK_ADDRESS": node.address}

    async def ropewalk(*arguments: str) -> str:
        command = [sys.executable, "-m", "ropewalk", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run = ("run", "-d", "--name", "web", "--runtime", runtime, "--log-dir", str(node.logs))
    id = await ropewalk(*run, images.BUSYBOX, "sh", "-c", COUNT)
    seen = await reaches(client, id, 3)
    file = str(tmp_path / "a.tar")
    assert await ropewalk("checkpoint", "web", "-e", file) == file
    await ropewalk("rm", "-f", "web")
    again = await ropewalk(*run, file)
    assert await reaches(client, again, seen + 3) >= seen
    await ropewalk("rm", "-f", "web")


def numbers(output: str) -> list[int]:
    return [int(line) for line in output.splitlines() if line.isdigit()]


async def fetched(address: str) -> bytes:
    def fetch() -> bytes:
        with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
            content: bytes = answer.read()
            return content

    return await asyncio.to_thread(fetch)


async def test_a_counter_goes_on(
    node: nodes.Node, client: cri.Client, sandbox: workload.Pod, run_pod: PodRunner, tmp_path: Path
) -> None:
    id = await sandbox.start("main", "sh", "-c", SERVE)
    before = await reaches(client, id, 20)
    archive = tmp_path / "checkpoint.tar"
    await client.checkpoint(id, str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["checkpoint.tar"]
    assert os.listdir(node.root / "checkpoints") == []
    assert (node.root / "checkpoints").stat().st_mode & 0o777 == 0o700
    at = await counted(client, id)
    await reaches(client, id, at + 5)  # it runs on
    assert await fetched(await sandbox.ip()) == b"served\n"
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        config = json.load(tar.extractfile("config.dump"))  # type: ignore[arg-type]
        spec = json.load(tar.extractfile("spec.dump"))  # type: ignore[arg-type]
    assert names[:4] == ["config.dump", "spec.dump", "status.dump", "checkpoint"]
    assert (config["id"], config["name"], config["rootfsImageName"]) == (id, "main", images.BUSYBOX)
    assert spec["annotations"]["io.kubernetes.cri.container-name"] == "main"

    other = await run_pod(runtime_handler="newer")
    address = await other.ip()
    restored = await other.create("main", "never", "used", reference=str(archive))
    status = await client.container_status(restored)
    assert (status.state, status.image.image) == (values.ContainerState.CREATED, images.BUSYBOX)
    await client.start(restored)
    first = numbers(await other.says("\n"))[0]
    assert before <= first <= at + 1
    await reaches(client, restored, first + 3)
    assert numbers(other.output())[:3] == [first, first + 1, first + 2]
    assert await other.ip() == address
    assert await fetched(address) == b"served\n"
    assert os.listdir(node.root / "checkpoints") == []
    assert (await client.pod_status(other.id)).state is values.PodSandboxState.READY

    again = tmp_path / "again.tar"  # what was restored can be saved as well
    await client.checkpoint(restored, str(again))
    await client.stop(restored, 0)
    assert (await client.container_status(restored)).exit_code == 137
    second = await other.create("main", reference=str(again), metadata=ContainerMetadata("main", attempt=1))
    await client.start(second)
    await reaches(client, second, first + 6)
    await client.remove(restored)
    await node.restart()
    seen = await counted(client, second)
    await reaches(client, second, seen + 2)
    assert (await client.pod_status(other.id)).state is values.PodSandboxState.READY
