"""Fixtures of the node tests: a private node per file, its registry, and proof that nothing is left.

probes       what works here, found once per run
registry     Debian's docker-registry with the test images (one per run and worker)
node         a running daemon of its own; `node.client()` speaks to it, `node.kill()` and `node.restart()` hurt it
pulled       `node` with the shell image
client       a client of `node`
run_pod      runs a pod sandbox that is removed after the test
trace        the snapshot of the machine before the test file; what is there after it fails the file
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.spec import pod
from ropewalk.spec.image import ImageSpec
from tools import images, workload
from tools import node as nodes
from tools import registry as registries
from tools import trace as traces

LOG = pytest.StashKey[nodes.Node]()
PodRunner = Callable[..., Awaitable[workload.Pod]]


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Handlers are tried once in a run, by a node of their own: their trials would be half of what a short test does,
    and happen in the middle of it. tests/node/daemon/test_probes.py has nodes that try them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = shared / "probes"
    with (shared / "probes.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one worker tries them, the others wait
        if not directory.exists():
            asyncio.run(learn(directory))
    nodes.Node.probes = directory


async def learn(directory: Path) -> None:
    async with nodes.Node(None) as node:
        await node.learn(directory)


@pytest.fixture(scope="session")
def registry(probes: None) -> Iterator[registries.Registry]:
    with nodes.serving() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def trace() -> Iterator[set[str]]:
    """Every node that a file made must be gone with all it had, and what tests made without a node; what belongs to
    others on this machine is not looked at."""
    before = traces.snapshot()
    known = len(nodes.Node.made)
    yield before
    names = traces.own_names()
    marks = [mark for node in nodes.Node.made[known:] for mark in node.marks]
    assert traces.added(before, names, names.replace("-", "_"), *marks) == [], "left on the machine"


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest, registry: registries.Registry, trace: set[str]) -> Iterator[nodes.Node]:
    """A test file may set NODE_CONFIG (TOML), NODE_ENVIRONMENT and NODE_CLASS for its node."""
    config = getattr(request.module, "NODE_CONFIG", "")
    environment = getattr(request.module, "NODE_ENVIRONMENT", None)
    running: nodes.Node = getattr(request.module, "NODE_CLASS", nodes.Node)(
        registry, config=config, environment=environment
    )
    request.node.stash[LOG] = running
    asyncio.run(running.__aenter__())
    yield running
    asyncio.run(running.close())


@pytest.fixture(scope="module")
def pulled(node: nodes.Node) -> nodes.Node:
    asyncio.run(pull(node, images.BUSYBOX))
    return node


async def pull(node: nodes.Node, reference: str) -> None:
    async with node.client() as client:
        await client.pull(ImageSpec(image=reference))


@pytest.fixture
async def client(node: nodes.Node) -> AsyncIterator[cri.Client]:
    async with node.client() as client:
        yield client


@pytest.fixture
async def run_pod(node: nodes.Node, client: cri.Client) -> AsyncIterator[PodRunner]:
    """`await run_pod(name="", **fields of PodSpec)`; a test may remove the pod, or kill the daemon, itself."""
    made: list[workload.Pod] = []

    async def run(name: str = "", *, spec: pod.PodSpec | None = None, **fields: Any) -> workload.Pod:
        given = spec or workload.pod_spec(name, logs=node.logs, **fields)
        made.append(await workload.run_pod(client, given))
        return made[-1]

    yield run
    if node.process is None or node.process.poll() is not None:
        await node.start()
    for pod_ in made:
        await pod_.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows the end of the daemon's log."""
    report = yield
    parent = item.getparent(pytest.Module)
    running = parent.stash.get(LOG, None) if parent is not None else None
    if report.failed and running is not None and running.log_file.exists():
        report.sections.append((f"log of {running.instance}", running.log(150)))
    return report
