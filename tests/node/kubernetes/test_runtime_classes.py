"""A real kubelet and its API server: pods under RuntimeClass objects of every handler that works here.

Needs etcd, kube-apiserver and kubelet on PATH (Kubernetes 1.34 or later); ./dev does not install them.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Iterator

import pytest

from ropewalk.client import admin
from tests.node.kubernetes import cluster
from tools import gvisor, images, shims

pytestmark = [
    pytest.mark.skipif(bool(cluster.missing()), reason=f"not on PATH: {', '.join(cluster.missing())}"),
    pytest.mark.timeout(300),
]

NODE_CLASS = cluster.Node
SHIM = shims.find()
NODE_CONFIG = f'[runtimes.newer]\ntype = "runsc"\npath = "{gvisor.found()}"\n'
if SHIM:
    NODE_CONFIG += f'[runtimes.shim]\ntype = "shim"\npath = "{SHIM}"\n'
HANDLERS = ("crun", "runc", "runsc", "newer", "shim")
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
OVERHEAD = {"podFixed": {"memory": "16Mi"}}


@pytest.fixture(scope="module")
def kubernetes(pulled: cluster.Node) -> Iterator[cluster.Cluster]:
    running = cluster.Cluster(pulled)
    asyncio.run(running.start())
    try:
        for handler in (*HANDLERS, "nosuch"):
            running.create(
                CLASSES, apiVersion="node.k8s.io/v1", kind="RuntimeClass", metadata={"name": handler}, handler=handler,
                overhead=OVERHEAD,
            )  # fmt: skip
        yield running
    finally:
        asyncio.run(running.close())


async def needs(node: cluster.Node, handler: str) -> None:
    async with admin.Client(node.address) as client:
        found = {runtime.name: runtime for runtime in await client.runtimes()}
    if handler not in found or not found[handler].works:
        pytest.skip(f"{handler} does not work here")


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_pod_lives_and_ends_under_its_class(
    kubernetes: cluster.Cluster, pulled: cluster.Node, handler: str
) -> None:
    await needs(pulled, handler)
    name = f"short-{handler}"
    kubernetes.pod(name, handler, "sh", "-c", "cat /proc/version; exit 3", image=images.BUSYBOX)
    status = await kubernetes.until(
        "Failed", lambda: (status := kubernetes.status(name))["phase"] == "Failed" and status
    )
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert kubernetes.read(f"{cluster.PODS}/{name}")["spec"]["overhead"] == OVERHEAD["podFixed"]
    assert ("Linux version 4.4.0" in kubernetes.output(name)) == (handler in ("runsc", "newer"))  # seen by it
    await kubernetes.delete(name)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_pod_is_probed_and_outlives_the_daemon(
    kubernetes: cluster.Cluster, pulled: cluster.Node, handler: str
) -> None:
    await needs(pulled, handler)
    name = f"long-{handler}"
    probe = {"exec": {"command": ["test", "-e", "/data/there"]}, "periodSeconds": 1, "timeoutSeconds": 10}
    kubernetes.pod(
        name, handler, "sh", "-c", "sleep 1; touch /data/there; sleep 600 & wait", image=images.BUSYBOX,
        container={"readinessProbe": probe, "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "emptyDir": {"medium": "Memory"}}],
    )  # fmt: skip
    await kubernetes.until("Ready", lambda: kubernetes.is_ready(name))
    before = kubernetes.status(name)["containerStatuses"][0]["containerID"]
    await pulled.restart()
    await kubernetes.until("Ready", lambda: kubernetes.is_ready(name))
    after = kubernetes.status(name)["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (before, 0)
    assert before.startswith("ropewalk://")
    await kubernetes.delete(name)


@pytest.mark.parametrize("handler", ["crun", "runc", "shim"])
async def test_root_in_a_pod_of_its_own_users_is_not_the_nodes(
    kubernetes: cluster.Cluster, pulled: cluster.Node, handler: str
) -> None:
    await needs(pulled, handler)
    name = f"users-{handler}"
    kubernetes.pod(name, handler, "cat", "/proc/self/uid_map", image=images.BUSYBOX, hostUsers=False)
    await kubernetes.until("Succeeded", lambda: kubernetes.status(name)["phase"] == "Succeeded")
    inside, outside, count = map(int, kubernetes.output(name).split())
    assert (inside, count) == (0, 65536)
    assert outside >= 65536
    await kubernetes.delete(name)


async def test_what_a_handler_cannot_do_is_told_to_the_pod(kubernetes: cluster.Cluster, pulled: cluster.Node) -> None:
    await needs(pulled, "runsc")
    kubernetes.pod("host", "runsc", "true", image=images.BUSYBOX, hostNetwork=True)
    events = await kubernetes.until("refused", lambda: kubernetes.events("host", "FailedCreatePodSandBox"))
    assert "runtime handler 'runsc'" in events[0]
    assert "namespace_options.network NODE" in events[0]
    await kubernetes.delete("host")


async def test_kubelet_checkpoints_a_container_of_gvisor(kubernetes: cluster.Cluster, pulled: cluster.Node) -> None:
    await needs(pulled, "newer")
    kubernetes.pod("saved", "newer", "sleep", "600", image=images.BUSYBOX)
    await kubernetes.until("Ready", lambda: kubernetes.is_ready("saved"))
    (archive,) = json.loads(kubernetes.call("POST", f"{kubernetes.kubelet}/checkpoint/default/saved/main"))["items"]
    with tarfile.open(archive) as found:
        assert {"config.dump", "spec.dump"} < set(found.getnames())
    assert kubernetes.is_ready("saved")
    await kubernetes.delete("saved")


async def test_a_class_without_a_handler_is_told_to_the_pod(kubernetes: cluster.Cluster) -> None:
    kubernetes.pod("nosuch", "nosuch", "true", image=images.BUSYBOX)
    events = await kubernetes.until("refused", lambda: kubernetes.events("nosuch", "FailedCreatePodSandBox"))
    assert "no runtime handler named 'nosuch'" in events[0]
    await kubernetes.delete("nosuch")


async def test_the_node_lists_the_handlers_that_work(kubernetes: cluster.Cluster, pulled: cluster.Node) -> None:
    async with admin.Client(pulled.address) as client:
        works = {runtime.name for runtime in await client.runtimes() if runtime.works}
    listed = kubernetes.read(f"/api/v1/nodes/{cluster.NAME}")["status"]["runtimeHandlers"]
    assert {handler["name"] for handler in listed} == {"", *works}  # "": the default
    features = {handler["name"]: handler["features"] for handler in listed}
    assert features["crun"]["userNamespaces"]
