"""A pod's SELinux level is chosen with its row, and its files and volumes get the label before a container runs."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk.linux import offload, selinux
from ropewalk.pods import files
from ropewalk.runtimes.handler import ContainerPlan, Task
from ropewalk.runtimes.oci import resolve
from ropewalk.spec.container import Mount
from ropewalk.spec.pod import LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSpec, SELinuxOption
from tests.unit.pods.conftest import Bench, container_spec, pod_spec

POLICY = selinux.Contexts("system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0")
Labelled = list[tuple[str, str]]


@pytest.fixture
def labelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Labelled:
    """The node labels; what was labelled: file (or the pod's id), label."""
    seen: Labelled = []
    for owner in (bench.daemon.sandboxes, bench.daemon.containers._inputs):
        owner._node = replace(owner._node, selinux=POLICY)

    def label(_: str, id: str, spec: PodSpec, text: str) -> None:
        seen.append((id, text))

    async def call(_: offload.Offload, fn: Any, *args: Any, **__: Any) -> Any:
        if fn is selinux.relabel:
            seen.append(args)
            return None
        return fn(*args)

    monkeypatch.setattr(files, "label", label)
    monkeypatch.setattr(offload.Offload, "call", call)
    return seen


def asking(name: str, level: str) -> PodSpec:
    context = LinuxSandboxSecurityContext(selinux_options=SELinuxOption(level=level))
    spec = pod_spec(name)
    options = replace(context, namespace_options=spec.namespaces)
    return replace(spec, linux=LinuxPodSandboxConfig(security_context=options))


async def test_each_pod_has_a_level_of_its_own_and_keeps_it(bench: Bench, labelled: Labelled) -> None:
    first, second = [await bench.daemon.sandboxes.run(pod_spec(name)) for name in ("a", "b")]
    asked = await bench.daemon.sandboxes.run(asking("c", "s0:c7"))
    assert asked.selinux_level == "s0:c7"
    assert len({first.selinux_level, second.selinux_level, "s0:c7", ""}) == 4
    kind = "system_u:object_r:container_file_t"
    assert labelled == [(pod.id, f"{kind}:{pod.selinux_level}") for pod in (first, second, asked)]
    again = await bench.restart()
    assert again.sandboxes.get(first.id).selinux_level == first.selinux_level


async def test_volumes_are_relabelled_before_the_container_is_made(
    bench: Bench, labelled: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    labelled.clear()
    monkeypatch.setattr(resolve, "read_locked", lambda _: [])
    mounts = [Mount("/data", "/", selinux_relabel=True), Mount("/other", "/")]
    handler = bench.daemon.containers._handlers["crun"]
    create = handler.create

    async def seen(plan: ContainerPlan) -> Task:
        labelled.append(("made with", plan.spec["process"]["selinuxLabel"]))
        return await create(plan)

    monkeypatch.setattr(handler, "create", seen)
    await bench.daemon.containers.create(pod.id, container_spec(mounts=mounts))
    assert labelled == [
        ("/", f"system_u:object_r:container_file_t:{pod.selinux_level}"),
        ("made with", f"system_u:system_r:container_t:{pod.selinux_level}"),
    ]


async def test_where_the_node_does_not_label_nothing_is_labelled(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "label", pytest.fail)
    pod = await bench.daemon.sandboxes.run(asking("c", "s0:c7"))
    assert pod.selinux_level == ""


def test_the_files_of_a_pod_and_not_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Labelled = []
    monkeypatch.setattr(selinux, "set_label", lambda path, label: seen.append((path, label)))
    files.label("/run/ropewalk", "p1", pod_spec(), "l")
    names = ("hostname", "hosts", "resolv.conf", "shm")
    assert seen == [(f"/run/ropewalk/pods/p1/{name}", "l") for name in names]
