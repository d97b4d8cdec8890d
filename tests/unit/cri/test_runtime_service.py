"""runtime.v1.RuntimeService: codes and idempotence of contract 1.2, the clients' checks of 1.1, what is told."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from ropewalk.runtimes.handler import Level, Probe
from ropewalk.wire.pb import cri_pb2 as pb
from tests.fakes import domain
from tests.unit.cri.conftest import OK, Node, broken, container_config, pod_config

Code = grpc.StatusCode
ABSENT = "f" * 64


# Identity and health.


async def test_version_has_what_kubelet_compares(node: Node) -> None:
    reply = await node.ok("Version", version="0.1.0")
    assert (reply.version, reply.runtime_name, reply.runtime_api_version) == ("0.1.0", "ropewalk", "v1")
    assert reply.runtime_version


async def test_status_has_conditions_and_a_handler_without_name(node: Node) -> None:
    reply = await node.ok("Status")
    assert {c.type: c.status for c in reply.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert [h.name for h in reply.runtime_handlers] == ["", "crun", "other"]
    assert not reply.info


async def test_verbose_status_tells_the_state_directory(node: Node) -> None:
    info = (await node.ok("Status", verbose=True)).info
    assert json.loads(info["config"])["stateDir"] == "/run/ropewalk"
    assert json.loads(info["runtimes"])["crun"]["level"] == "works"
    assert info["cniconfig"] == "{}"


async def test_a_missing_runtime_is_said_with_what_to_do(node: Node) -> None:
    broken(node.handler, Probe(Level.PRESENT, evidence="crun: not found", advice="apt-get install crun"))
    await node.health.refresh(["crun", "other"])
    reply = await node.ok("Status")
    condition = next(c for c in reply.status.conditions if c.type == "RuntimeReady")
    assert not condition.status
    assert condition.reason == "RuntimeHandlerNotWorking"
    assert "crun: not found; apt-get install crun" in condition.message
    assert [h.name for h in reply.runtime_handlers] == ["", "crun"]


async def test_unusable_cgroups_are_said(node: Node) -> None:
    node.cgroups.trouble = "the hugetlb controller is in v2; mount it"
    condition = next(c for c in (await node.ok("Status")).status.conditions if c.type == "RuntimeReady")
    assert (condition.status, condition.reason) == (False, "CgroupsNotUsable")
    assert condition.message == node.cgroups.trouble


async def test_the_network_condition_is_the_networks(node: Node) -> None:
    node.network.state = (False, "NetworkPluginNotReady", "no bridge")
    condition = next(c for c in (await node.ok("Status")).status.conditions if c.type == "NetworkReady")
    assert (condition.status, condition.reason, condition.message) == node.network.state


async def test_the_cgroup_driver(node: Node) -> None:
    assert (await node.ok("RuntimeConfig")).linux.cgroup_driver == pb.CGROUPFS
    node.cgroups.driver = "systemd"
    assert (await node.ok("RuntimeConfig")).linux.cgroup_driver == pb.SYSTEMD


async def test_a_pod_cidr_reaches_the_network(node: Node) -> None:
    await node.ok("UpdateRuntimeConfig")
    assert node.network.cidr == ""
    await node.ok("UpdateRuntimeConfig", runtime_config={"network_config": {"pod_cidr": "10.1.0.0/24"}})
    assert node.network.cidr == "10.1.0.0/24"


# Codes (contract 1.2).


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("PodSandboxStatus", {"pod_sandbox_id": ABSENT}),
        ("PodSandboxStats", {"pod_sandbox_id": ABSENT}),
        ("CreateContainer", {"pod_sandbox_id": ABSENT, "config": container_config()}),
        ("ContainerStatus", {"container_id": ABSENT}),
        ("ContainerStats", {"container_id": ABSENT}),
        ("StartContainer", {"container_id": ABSENT}),
        ("ExecSync", {"container_id": ABSENT, "cmd": ["true"]}),
        ("ReopenContainerLog", {"container_id": ABSENT}),
        ("UpdateContainerResources", {"container_id": ABSENT}),
    ],
)
async def test_unknown_ids_are_not_found(node: Node, method: str, fields: dict[str, Any]) -> None:
    call = await node.call(method, **fields)
    assert call.code is Code.NOT_FOUND
    assert ABSENT in call.text


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("StopPodSandbox", "pod_sandbox_id"),
        ("RemovePodSandbox", "pod_sandbox_id"),
        ("StopContainer", "container_id"),
        ("RemoveContainer", "container_id"),
    ],
)
async def test_stop_and_remove_of_what_is_absent_are_fine(node: Node, method: str, field: str) -> None:
    assert (await node.call(method, **{field: ABSENT})).code is OK
    assert (await node.call(method, **{field: ""})).code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("RunPodSandbox", {}, "config.metadata.name is empty"),
        ("RunPodSandbox", {"config": {"metadata": {"name": "x", "namespace": "n"}}}, "config.metadata.uid is empty"),
        ("RunPodSandbox", {"config": pod_config(), "runtime_handler": "nope"}, "no runtime handler named 'nope'"),
        (
            "RunPodSandbox",
            {"config": pod_config(linux={"security_context": {"namespace_options": {"ipc": 7}}})},
            "config.linux.security_context.namespace_options.ipc is 7",
        ),
        ("CreateContainer", {"pod_sandbox_id": ABSENT}, "config.metadata.name is empty"),
        ("CreateContainer", {"config": {"metadata": {"name": "c"}}}, "config.image.image is empty"),
        ("CreateContainer", {"config": container_config(envs=[{"key": "A=B"}])}, "config.envs has 'A=B'"),
        ("CreateContainer", {"config": container_config(envs=[{"key": "A", "value": b"\0"}])}, "config.envs has 'A'"),
        ("CreateContainer", {"config": container_config(args=["a\0"])}, "config.args holds a NUL byte"),
        ("CreateContainer", {"config": container_config(windows={})}, "config.windows is not supported"),
        ("StopContainer", {"container_id": ABSENT, "timeout": -1}, "timeout is -1 s"),
        ("UpdateContainerResources", {"container_id": ABSENT, "windows": {}}, "windows is not supported"),
        ("ExecSync", {"container_id": ABSENT, "cmd": ["a\0"]}, "cmd holds a NUL byte"),
        ("ExecSync", {"container_id": ABSENT, "cmd": ["a"], "timeout": -3}, "timeout is -3 s"),
    ],
)
async def test_invalid_arguments_name_the_field(node: Node, method: str, fields: dict[str, Any], said: str) -> None:
    call = await node.call(method, **fields)
    assert call.code is Code.INVALID_ARGUMENT
    assert said in call.text


async def test_wrong_states_are_failed_preconditions(node: Node) -> None:
    pod = await node.pod()
    container = await node.container(pod)
    for method, fields in (
        ("ExecSync", {"cmd": ["true"]}),
        ("ReopenContainerLog", {}),
    ):
        assert (await node.call(method, container_id=container, **fields)).code is Code.FAILED_PRECONDITION
    await node.ok("StartContainer", container_id=container)
    assert (await node.call("StartContainer", container_id=container)).code is Code.FAILED_PRECONDITION
    await node.ok("StopPodSandbox", pod_sandbox_id=pod)
    late = await node.call("CreateContainer", pod_sandbox_id=pod, config=container_config("late"))
    assert late.code is Code.FAILED_PRECONDITION


async def test_an_absent_image_is_not_found(node: Node) -> None:
    pod = await node.pod()
    call = await node.call("CreateContainer", pod_sandbox_id=pod, config=container_config())
    assert call.code is Code.NOT_FOUND
    assert "busybox:1" in call.text


async def test_an_exec_that_takes_too_long_is_deadline_exceeded(node: Node) -> None:
    container = await node.running(await node.pod())
    call = await node.call("ExecSync", container_id=container, cmd=["slow"], timeout=1)
    assert call.code is Code.DEADLINE_EXCEEDED
    assert (await node.call("ExecSync", container_id=container)).code is Code.INVALID_ARGUMENT


async def test_an_exit_code_is_no_error(node: Node) -> None:
    container = await node.running(await node.pod())
    reply = await node.ok("ExecSync", container_id=container, cmd=["false"])
    assert (reply.exit_code, reply.stdout, reply.stderr) == (3, b"\xffout", b"err")


async def test_a_checkpoint_is_asked_for_as_it_came(node: Node) -> None:
    container = await node.running(await node.pod())
    fields = {"container_id": container, "location": "/a.tar", "timeout": 7}
    assert (await node.call("CheckpointContainer", **fields)).code is Code.OK
    assert node.containers.archives == [(container, "/a.tar", 7.0)]
    assert (await node.call("CheckpointContainer", **{**fields, "timeout": -1})).code is Code.INVALID_ARGUMENT
    assert (await node.call("CheckpointContainer", **{**fields, "container_id": ABSENT})).code is Code.NOT_FOUND


async def test_what_is_not_built_is_unimplemented(node: Node) -> None:
    container = await node.running(await node.pod())
    for method, fields in (
        ("Exec", {"container_id": container, "cmd": ["sh"], "stdout": True}),
        ("Attach", {"container_id": container, "stdout": True}),
        ("PortForward", {"pod_sandbox_id": ABSENT}),
        ("CheckpointPod", {}),
        ("RestorePod", {}),
        ("ListMetricDescriptors", {}),
        ("ListPodSandboxMetrics", {}),
        ("UpdatePodSandboxResources", {"pod_sandbox_id": ABSENT}),
    ):
        assert (await node.call(method, **fields)).code is Code.UNIMPLEMENTED, method


# Idempotence.


async def test_a_repeat_gets_the_same_pod(node: Node) -> None:
    assert await node.pod() == await node.pod()
    assert len((await node.ok("ListPodSandbox")).items) == 1


async def test_another_config_under_the_same_name_is_refused_naming_the_field(node: Node) -> None:
    await node.pod()
    call = await node.call("RunPodSandbox", config=pod_config(hostname="other"))
    assert call.code is Code.ALREADY_EXISTS
    assert "hostname" in call.text


async def test_a_repeat_gets_the_same_container(node: Node) -> None:
    pod = await node.pod()
    assert await node.container(pod) == await node.container(pod)
    call = await node.call("CreateContainer", pod_sandbox_id=pod, config=container_config(tty=True))
    assert call.code is Code.ALREADY_EXISTS


async def test_stop_and_remove_may_be_repeated(node: Node) -> None:
    pod = await node.pod()
    container = await node.running(pod)
    for _ in range(2):
        await node.ok("StopContainer", container_id=container, timeout=3)
        await node.ok("StopPodSandbox", pod_sandbox_id=pod)
    for _ in range(2):
        await node.ok("RemoveContainer", container_id=container)
        await node.ok("RemovePodSandbox", pod_sandbox_id=pod)
    assert node.containers.timeouts == [3.0, 3.0]


# Ids may be prefixes.


async def test_unique_prefixes_are_ids(node: Node) -> None:
    pod = await node.pod()
    container = await node.running(pod)
    assert (await node.ok("PodSandboxStatus", pod_sandbox_id=pod[:13])).status.id == pod
    assert (await node.ok("ContainerStatus", container_id=container[:13])).status.id == container
    assert (await node.ok("ContainerStats", container_id=container[:13])).stats.attributes.id == container
    await node.ok("ExecSync", container_id=container[:13], cmd=["true"])
    await node.ok("StopContainer", container_id=container[:13])
    await node.ok("RemovePodSandbox", pod_sandbox_id=pod[:13])


# What is told.


async def test_a_pods_status_passes_the_clients_checks(node: Node) -> None:
    options = {"network": 0, "pid": 1, "ipc": 2}
    linux = {"security_context": {"namespace_options": options}}
    pod = await node.pod(labels={"a": "b"}, annotations={"k": "v\n"}, linux=linux)
    status = (await node.ok("PodSandboxStatus", pod_sandbox_id=pod)).status
    assert (status.id, status.state, status.created_at) == (pod, 0, domain.AT)
    assert (status.metadata.name, status.metadata.uid, status.metadata.namespace) == ("web", "uid-web", "default")
    assert status.metadata.attempt == 1
    assert (status.network.ip, list(status.network.additional_ips)) == ("10.0.0.2", [])
    told = status.linux.namespaces.options
    assert (told.network, told.pid, told.ipc) == (0, 1, 2)
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "b"}, {"k": "v\n"})


async def test_a_host_network_pod_has_no_address(node: Node) -> None:
    pod = await node.pod(linux={"security_context": {"namespace_options": {"network": 2}}})
    status = (await node.ok("PodSandboxStatus", pod_sandbox_id=pod)).status
    assert (status.network.ip, status.linux.namespaces.options.network) == ("", 2)


async def test_the_handler_is_echoed(node: Node) -> None:
    reply = await node.ok("RunPodSandbox", config=pod_config(), runtime_handler="other")
    status = (await node.ok("PodSandboxStatus", pod_sandbox_id=reply.pod_sandbox_id)).status
    (listed,) = (await node.ok("ListPodSandbox")).items
    assert (status.runtime_handler, listed.runtime_handler) == ("other", "other")


async def test_verbose_statuses_carry_info(node: Node) -> None:
    pod = await node.pod()
    container = await node.running(pod)
    told = json.loads((await node.ok("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)).info["info"])
    assert (told["sandboxID"], told["pid"]) == (pod, 0)
    assert {"type": "network", "path": "/run/netns/x"} in told["runtimeSpec"]["linux"]["namespaces"]
    told = json.loads((await node.ok("ContainerStatus", container_id=container, verbose=True)).info["info"])
    assert (told["sandboxID"], told["pid"]) == (pod, 42)
    assert told["runtimeSpec"]["process"]["args"] == ["sleep"]
    assert not (await node.ok("ContainerStatus", container_id=container)).info


async def test_a_containers_status_passes_the_clients_checks(node: Node) -> None:
    mounts = [{"container_path": "/data", "host_path": "/srv", "readonly": True, "propagation": 1}]
    linux = {"resources": {"cpu_shares": 512}}
    container = await node.running(
        await node.pod(), mounts=mounts, linux=linux, stop_signal=29, labels={"x": "y"}, annotations={"h": "1"}
    )
    status = (await node.ok("ContainerStatus", container_id=container)).status
    assert (status.state, status.created_at, status.started_at, status.finished_at) == (1, domain.AT, domain.AT + 1, 0)
    assert (status.metadata.name, status.metadata.attempt) == ("main", 2)
    assert status.image.image == "docker.io/library/busybox:1"
    assert status.image_ref.startswith("docker.io/library/busybox@sha256:")
    assert status.image_id == domain.IMAGE_ID
    (mount,) = status.mounts
    assert (mount.container_path, mount.host_path, mount.readonly, mount.propagation) == ("/data", "/srv", True, 1)
    assert status.resources.linux.cpu_shares == 512
    assert status.stop_signal == 29
    assert (dict(status.labels), dict(status.annotations)) == ({"x": "y"}, {"h": "1"})
    await node.ok("StopContainer", container_id=container)
    status = (await node.ok("ContainerStatus", container_id=container)).status
    assert (status.state, status.exit_code, status.reason, status.finished_at) == (2, 137, "Error", domain.AT + 2)


async def test_new_limits_are_told(node: Node) -> None:
    container = await node.running(await node.pod())
    await node.ok("UpdateContainerResources", container_id=container, linux={"memory_limit_in_bytes": 1 << 20})
    status = (await node.ok("ContainerStatus", container_id=container)).status
    assert status.resources.linux.memory_limit_in_bytes == 1 << 20


# Lists and filters.


async def test_lists_are_filtered(node: Node) -> None:
    web, db = await node.pod("web", labels={"app": "web", "t": "1"}), await node.pod("db", labels={"app": "db"})
    main, side = await node.running(web, labels={"c": "main"}), await node.container(web, "side")
    other = await node.running(db)
    await node.ok("StopPodSandbox", pod_sandbox_id=db)

    async def pods(**filter: Any) -> set[str]:
        return {p.id for p in (await node.ok("ListPodSandbox", filter=filter)).items}

    async def containers(**filter: Any) -> set[str]:
        return {c.id for c in (await node.ok("ListContainers", filter=filter)).containers}

    assert await pods() == {web, db}
    assert await pods(id=web[:10]) == {web}
    assert await pods(state={"state": 0}) == {web}
    assert await pods(state={"state": 1}) == {db}
    assert await pods(label_selector={"app": "web", "t": "1"}) == {web}
    assert await pods(label_selector={"app": "web", "t": "2"}) == set()
    assert await pods(id=ABSENT) == set()
    assert await containers() == {main, side, other}
    assert await containers(pod_sandbox_id=web[:10]) == {main, side}
    assert await containers(state={"state": 1}) == {main, other}
    assert await containers(state={"state": 0}, pod_sandbox_id=web) == {side}
    assert await containers(label_selector={"c": "main"}) == {main}
    assert await containers(id=side[:20]) == {side}


async def test_a_list_shows_the_last_state(node: Node) -> None:
    """Frames are kept by record: each change of a record is a new frame, and what is gone is gone."""
    pod = await node.pod()
    container = await node.container(pod)

    async def listed() -> list[tuple[str, int]]:
        return [(c.id, c.state) for c in (await node.ok("ListContainers")).containers]

    assert await listed() == [(container, 0)]
    await node.ok("StartContainer", container_id=container)
    assert await listed() == [(container, 1)]
    await node.ok("StopContainer", container_id=container)
    assert await listed() == [(container, 2)]
    await node.ok("RemoveContainer", container_id=container)
    assert await listed() == []


async def test_a_listed_container_has_one_image_id(node: Node) -> None:
    await node.container(await node.pod())
    (listed,) = (await node.ok("ListContainers")).containers
    assert listed.image_id == listed.image_ref == domain.IMAGE_ID
    assert listed.image.image == "busybox:1"


async def test_streams_say_what_lists_say(node: Node) -> None:
    pods = {await node.pod(name) for name in ("a", "b")}
    containers = {await node.running(pod) for pod in pods}
    assert {p.id for m in await node.stream("StreamPodSandboxes") for p in m.pod_sandboxes} == pods
    assert {c.id for m in await node.stream("StreamContainers") for c in m.containers} == containers
    stats = await node.stream("StreamContainerStats")
    assert {s.attributes.id for m in stats for s in m.container_stats} == containers
    stats = await node.stream("StreamPodSandboxStats")
    assert {s.attributes.id for m in stats for s in m.pod_sandbox_stats} == pods
    assert await node.stream("StreamContainers", filter={"id": ABSENT}) == []


# Statistics: unknown is unset, not zero.


async def test_container_statistics(node: Node) -> None:
    pod = await node.pod()
    running, created = await node.running(pod, labels={"a": "b"}), await node.container(pod, "created")
    found = {s.attributes.id: s for s in (await node.ok("ListContainerStats")).stats}
    stats = found[running]
    assert stats.attributes.metadata.name == "main"
    assert dict(stats.attributes.labels) == {"a": "b"}
    assert (stats.cpu.usage_core_nano_seconds.value, stats.cpu.HasField("usage_nano_cores")) == (7, False)
    assert (stats.memory.available_bytes.value, stats.memory.HasField("rss_bytes")) == (60, False)
    assert stats.cpu.timestamp == stats.memory.timestamp == stats.writable_layer.timestamp == domain.AT
    assert (stats.writable_layer.used_bytes.value, stats.writable_layer.inodes_used.value) == (10, 2)
    assert stats.writable_layer.fs_id.mountpoint == "/data"
    assert not found[created].HasField("cpu")
    filtered = (await node.ok("ListContainerStats", filter={"id": running[:12]})).stats
    assert [s.attributes.id for s in filtered] == [running]


async def test_pod_statistics(node: Node) -> None:
    pod = await node.pod()
    container = await node.running(pod)
    stats = (await node.ok("PodSandboxStats", pod_sandbox_id=pod)).stats
    assert stats.attributes.metadata.uid == "uid-web"
    assert stats.linux.process.process_count.value == 5
    assert stats.linux.cpu.usage_nano_cores.value == 9
    default = stats.linux.network.default_interface
    assert (default.name, default.rx_bytes.value, default.tx_errors.value) == ("eth0", 1, 4)
    assert [i.name for i in stats.linux.network.interfaces] == ["eth1"]
    assert [c.attributes.id for c in stats.linux.containers] == [container]
    (listed,) = (await node.ok("ListPodSandboxStats", filter={"label_selector": {}})).stats
    assert listed.attributes.id == pod
