"""Private nodes: what ./dev node, the demonstration and the tests stand on. The kernel is asked, not Ropewalk."""

from __future__ import annotations

from ropewalk.spec.image import ImageSpec
from tools import images, trace, workload
from tools import node as nodes
from tools.registry import Registry


async def one_pod(node: nodes.Node) -> workload.Pod:
    client = node.client()
    await client.pull(ImageSpec(image=images.BUSYBOX))
    pod = await workload.run_pod(client, workload.pod_spec(logs=node.logs))
    await pod.start("main", "sleep", "600")
    return pod


def kinds(node: nodes.Node) -> set[str]:
    return {line.split(" ", 1)[0] for line in trace.snapshot(*node.marks)}


async def test_an_emptied_node_leaves_nothing(registry: Registry) -> None:
    node = nodes.Node(registry)
    async with node:
        pod = await one_pod(node)
        assert kinds(node) == {"mount", "netns", "link", "table", "cgroup", "process", "path"}
        await pod.client.close()
    assert trace.snapshot(*node.marks) == set()
    assert not node.base.exists()


async def test_a_killed_node_is_emptied_too(registry: Registry) -> None:
    node = nodes.Node(registry)
    async with node:
        pod = await one_pod(node)
        node.kill()
        assert {"process", "netns", "cgroup"} <= kinds(node)
        await pod.client.close()
    assert trace.snapshot(*node.marks) == set()


async def test_two_nodes_do_not_meet(registry: Registry) -> None:
    async with nodes.Node(registry) as one, nodes.Node(registry) as other:
        first, second = await one_pod(one), await one_pod(other)
        assert await first.ip() != await second.ip()
        assert [pod.id for pod in await first.client.pods()] == [first.id]
        assert [pod.id for pod in await second.client.pods()] == [second.id]
        await first.client.close()
        await second.client.close()


async def test_a_command_beside_a_node_has_the_code_that_a_shell_tells(registry: Registry) -> None:
    assert await nodes.run(["sh", "-c", "kill -9 $$"]) == 137
