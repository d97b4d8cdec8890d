"""Whose PID namespace is joined: never that of a process which has got the pid of another."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.pods import joined
from ropewalk.pods.records import PodPhase
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.oci import build
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import NamespaceMode
from tests.unit.pods.conftest import Bench, container_spec, pod_spec, settle, with_pid


def myself() -> Task:
    start = process.start_time(os.getpid())
    assert start is not None
    return Task(pid=os.getpid(), pid_start=start)


def test_the_path_is_of_the_open_namespace_and_ends_with_the_context() -> None:
    with joined.pid_namespace(myself(), "the target") as path:
        assert path.startswith(f"/proc/{os.getpid()}/fd/")
        assert os.stat(path).st_ino == os.stat("/proc/self/ns/pid").st_ino
        assert os.readlink(path).startswith("pid:[")
    assert not os.path.exists(path)


@pytest.mark.parametrize("task", [replace(myself(), pid_start=1), Task(pid=2**22 + 1, pid_start=1)])
def test_a_reused_pid_and_one_that_is_gone_are_refused(task: Task) -> None:
    before = os.listdir("/proc/self/fd")
    with (
        pytest.raises(RopewalkError, match=rf"the target \(pid {task.pid}\) has ended") as caught,
        joined.pid_namespace(task, "the target"),
    ):
        pass
    assert caught.value.kind is Kind.STATE
    assert os.listdir("/proc/self/fd") == before


def joining(mode: NamespaceMode, target: str = "") -> ContainerSpec:
    spec = container_spec("joining")
    options = replace(spec.security.namespace_options, pid=mode, target_id=target)
    return replace(spec, linux=replace(spec.linux, security_context=replace(spec.security, namespace_options=options)))


@pytest.mark.parametrize("mode", [NamespaceMode.TARGET, NamespaceMode.POD])
async def test_a_container_joins_what_was_checked_or_is_not_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: NamespaceMode
) -> None:
    """The world's processes have start times of nobody: as if their pids were others' now."""
    daemon = bench.daemon
    pod = await daemon.sandboxes.run(with_pid(pod_spec(), NamespaceMode.POD))
    await settle()  # its init is seen to be gone

    def revive(task: Task) -> None:
        daemon.sandboxes.pods.apply(pod.id, lambda one: replace(one, phase=PodPhase.READY, task=task))

    stale = replace(myself(), pid_start=1)
    revive(stale)
    target = await daemon.containers.create(pod.id, container_spec())
    await daemon.containers.start(target.id)
    daemon.containers.containers.apply(target.id, lambda one: replace(one, task=stale))
    with pytest.raises(RopewalkError, match="has ended: its PID namespace cannot be joined"):
        await daemon.containers.create(pod.id, joining(mode, target.id))
    assert [one.id for one in daemon.containers.list()] == [target.id]

    seen: list[build.Inputs] = []

    def noted(inputs: build.Inputs, original: Callable[[build.Inputs], build.Built] = build.build) -> build.Built:
        seen.append(inputs)
        return original(inputs)

    monkeypatch.setattr(build, "build", noted)
    revive(myself())
    daemon.containers.containers.apply(target.id, lambda one: replace(one, task=myself()))
    await daemon.containers.create(pod.id, joining(mode, target.id))
    (inputs,) = seen
    assert inputs.namespaces["pid"].startswith(f"/proc/{os.getpid()}/fd/")
    assert not os.path.exists(inputs.namespaces["pid"])
