"""A pod of WebAssembly images, on a crun that has an engine: the installed one, else the next Debian suite's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.client import admin, cri, values
from ropewalk.images import platforms
from ropewalk.spec.image import ImageSpec
from tests.fakes import wasm as programs
from tests.node.conftest import PodRunner
from tools import images, node, oci, registry, wasm

REFERENCE = "docker.io/ropewalk/wasm:latest"


def has_engine(program: str | Path) -> bool:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return "+WASM" in done.stdout


INSTALLED = next((found for name in ("crun-wasm", "crun") if (found := shutil.which(name)) and has_engine(found)), None)
NODE_CONFIG = f"""
[runtimes.wasm]
type = "crun"
path = "{INSTALLED or wasm.PROGRAM}"
annotations = {{"run.oci.handler" = "wasm"}}
"""


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    if INSTALLED is None and wasm.found() is None:
        pytest.skip("no crun with WebAssembly on this machine, and none to be had")


@pytest.fixture(scope="module")
def pushed(registry: registry.Registry, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing but modules in it. Its platform is the node's, as tools that build such images write it."""
    tree = oci.Tree()
    tree.file("hello.wasm", programs.says("hello from WebAssembly\n"), 0o755)
    tree.file("fails.wasm", programs.says("about to fail\n", then=programs.TRAP), 0o755)
    tree.file("turns.wasm", programs.turns(), 0o755)
    layout = oci.Layout(tmp_path_factory.mktemp("wasm") / "layout", platforms.read_node().architecture)
    layout.add(oci.Image([tree.tar()], {"Entrypoint": ["/hello.wasm"]}), REFERENCE)
    layout.close()
    images.push(registry, layout.directory, REFERENCE)


@pytest.fixture
async def client(node: node.Node, pushed: None) -> AsyncIterator[cri.Client]:
    async with node.client() as client:
        await client.pull(ImageSpec(image=REFERENCE))
        yield client


async def test_the_probe_ran_a_module(node: node.Node) -> None:
    async with admin.Client(node.address) as client:
        [found] = [one for one in await client.runtimes() if one.name == "wasm"]
    assert found.works, found.evidence
    assert "ran a module" in found.evidence


async def test_a_module_runs_as_a_container(client: cri.Client, run_pod: PodRunner) -> None:
    """The image's own entry point: its output is in the log."""
    pod = await run_pod(runtime_handler="wasm")
    id = await pod.start("main", reference=REFERENCE)
    assert (await pod.exited(id)).exit_code == 0
    assert pod.output() == "hello from WebAssembly\n"
    assert (await client.pod_status(pod.id)).state is values.PodSandboxState.READY


async def test_one_that_fails_says_so(run_pod: PodRunner) -> None:
    pod = await run_pod(runtime_handler="wasm")
    id = await pod.start("main", "/fails.wasm", reference=REFERENCE)
    status = await pod.exited(id)
    assert (status.exit_code != 0, status.reason) == (True, "Error")
    assert "about to fail\n" in pod.output()


async def used(client: cri.Client, id: str) -> int:
    """Nanoseconds of processor time."""
    [found] = await client.container_stats(id=id)
    return (found.cpu.usage_core_nano_seconds or 0) if found.cpu is not None else 0


async def test_one_that_never_ends_is_counted_and_stopped(client: cri.Client, run_pod: PodRunner) -> None:
    pod = await run_pod(runtime_handler="wasm")
    id = await pod.start("main", "/turns.wasm", reference=REFERENCE)
    async with asyncio.timeout(30):
        while await used(client, id) < 50_000_000:
            await asyncio.sleep(0.05)
    await client.stop(id, 0)
    status = await client.container_status(id)
    assert (status.state, status.exit_code) == (values.ContainerState.EXITED, 137)
