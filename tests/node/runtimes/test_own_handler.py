"""The handler that docs/runtimes/own-handler.md shows, out of a package of its own, on a node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec import container
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import LOG, PodRunner
from tools import images, workload
from tools import node as nodes
from tools import registry as registries

DOCUMENT = Path(__file__).parents[3] / "docs/runtimes/own-handler.md"
LINES = 48  # "of 40 lines": some 40, beside its imports


def code() -> str:
    found = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest,
    registry: registries.Registry,
    trace: set[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[nodes.Node]:
    """One whose daemon finds the package in its PYTHONPATH."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "my_package").mkdir()
    (packages / "my_package/__init__.py").write_text("")
    (packages / "my_package/locked.py").write_text(code())
    info = packages / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: my-package\nVersion: 1\n")
    points = re.search(r'\[project.entry-points."ropewalk.handlers"\]\nlocked = "(.*)"', DOCUMENT.read_text())
    assert points is not None
    (info / "entry_points.txt").write_text(f"[ropewalk.handlers]\nlocked = {points[1]}\n")
    config = "[runtimes.locked]\nprocesses = 32\n"
    running = nodes.Node(registry, config=config, environment={"PYTHONPATH": str(packages)})
    request.node.stash[LOG] = running
    asyncio.run(running.__aenter__())
    yield running
    asyncio.run(running.close())


@pytest.fixture
async def client(client: cri.Client) -> cri.Client:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return client


def test_it_is_as_short_as_we_say() -> None:
    assert len([line for line in code().splitlines() if line.strip()]) <= LINES


async def test_it_runs_pods_its_way(client: cri.Client, run_pod: PodRunner) -> None:
    sandbox = await run_pod(runtime_handler="locked")
    assert "locked" in {handler.name for handler in (await client.status()).runtime_handlers}
    id = await sandbox.start("main", "sleep", "600")
    seen = await client.exec_sync(id, ["sh", "-c", "touch /x; grep NoNewPrivs /proc/self/status; cat /proc/1/comm"])
    assert b"Read-only file system" in seen.stderr
    assert seen.stdout.split() == [b"NoNewPrivs:", b"1", b"sleep"]
    many = await client.exec_sync(id, ["sh", "-c", "i=0; while test $i -lt 40; do sleep 5 & i=$((i+1)); done"])
    assert b"can't fork" in many.stderr


async def test_it_refuses_what_it_cannot_or_will_not_do(client: cri.Client, run_pod: PodRunner) -> None:
    with pytest.raises(RopewalkError, match=r"runtime handler 'locked' .* cannot have .*network NODE") as caught:
        await run_pod(spec=workload.pod_spec(host_network=True, runtime_handler="locked"))
    assert caught.value.kind is Kind.UNSUPPORTED
    sandbox = await run_pod(runtime_handler="locked")
    mounts = [container.Mount(container_path="/s", host_path="/run/docker.sock")]
    with pytest.raises(RopewalkError, match=r"mounts has host_path '/run/docker.sock'"):
        await sandbox.create("main", "sleep", "1", mounts=mounts)
