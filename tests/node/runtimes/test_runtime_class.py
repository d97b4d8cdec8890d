"""A pod's runtime is the one its RuntimeClass names: crun and runc side by side on one node, told apart by their
state."""

from __future__ import annotations

import pytest

from ropewalk.client import cri, values
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec import pod
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import images
from tools import node as nodes

HANDLERS = ("crun", "runc")
SHARED = pod.LinuxPodSandboxConfig(
    security_context=pod.LinuxSandboxSecurityContext(namespace_options=pod.NamespaceOption(pid=pod.NamespaceMode.POD))
)


@pytest.fixture
async def client(client: cri.Client) -> cri.Client:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return client


async def test_both_are_offered(client: cri.Client) -> None:
    assert {found.name for found in (await client.status()).runtime_handlers} >= {"", *HANDLERS}


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_life_cycle(node: nodes.Node, client: cri.Client, run_pod: PodRunner, handler: str) -> None:
    other = next(name for name in HANDLERS if name != handler)
    sandbox = await run_pod(runtime_handler=handler)
    assert (await client.pod_status(sandbox.id)).runtime_handler == handler
    script = "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.05; done"
    id = await sandbox.start("main", "sh", "-c", script)
    assert (node.state / "runtimes" / handler / id).is_dir()
    assert not (node.state / "runtimes" / other / id).exists()
    await sandbox.says("hello")
    answer = await client.exec_sync(id, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    await node.restart()
    assert (await client.exec_sync(id, ["echo", "adopted"])).stdout == b"adopted\n"
    await client.stop(id, 10)
    status = await client.container_status(id)
    assert (status.state, status.exit_code) == (values.ContainerState.EXITED, 7)
    assert sandbox.output() == "hello\nbye\n"
    await client.remove(id)
    assert not (node.state / "runtimes" / handler / id).exists()


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_shared_pid_namespace(client: cri.Client, run_pod: PodRunner, handler: str) -> None:
    sandbox = await run_pod(runtime_handler=handler, linux=SHARED)
    id = await sandbox.start("main", "sleep", "600")
    assert (await client.exec_sync(id, ["cat", "/proc/1/comm"])).stdout == b"catatonit\n"


async def test_an_unknown_one_is_refused(run_pod: PodRunner) -> None:
    with pytest.raises(RopewalkError, match="no-such-runtime") as caught:
        await run_pod(runtime_handler="no-such-runtime")
    assert caught.value.kind is Kind.INVALID
