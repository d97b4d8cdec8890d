"""Pods whose runtime handler is not in the configuration any more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from ropewalk.errors import RopewalkError
from ropewalk.linux import process
from ropewalk.pods.records import ContainerPhase, PodPhase
from ropewalk.runtimes.handler import Task
from tests.unit.pods.conftest import Bench, Daemon, container_spec, pod_spec


@pytest.fixture
async def sleeper() -> AsyncIterator[Task]:
    child = await asyncio.create_subprocess_exec("sleep", "60")
    start = process.start_time(child.pid)
    assert start is not None
    yield Task(pid=child.pid, pid_start=start)
    if child.returncode is None:
        child.kill()
    await child.wait()


async def vanish(bench: Bench, task: Task, *, adopt: bool = True) -> tuple[Daemon, str, str]:
    """A pod with a running container, by a handler that the next daemon does not have."""
    daemon = bench.daemon
    pod = await daemon.sandboxes.run(pod_spec())
    container = await daemon.containers.create(pod.id, container_spec())
    await daemon.containers.start(container.id)
    daemon.containers.containers.apply(container.id, lambda one: replace(one, task=task))
    bench.handler = "other"
    return await bench.restart(adopt=adopt), pod.id, container.id


async def test_they_are_listed_stopped_and_removed(bench: Bench, sleeper: Task) -> None:
    daemon, pod, id = await vanish(bench, sleeper)
    assert [one.phase for one in daemon.sandboxes.list()] == [PodPhase.READY]
    assert [one.phase for one in daemon.containers.list()] == [ContainerPhase.RUNNING]
    row = daemon.containers.get(id)
    await daemon.containers.stop(id, 10)
    ended = daemon.containers.get(id)
    assert (ended.phase, ended.exit_code, ended.reason) == (ContainerPhase.EXITED, 255, "Unknown")
    assert "its runtime handler 'crun' is not in the configuration any more" in ended.message
    assert not process.is_alive(sleeper.pid, sleeper.pid_start)
    assert row.cgroup in daemon.cgroups.killed  # whatever its init left behind
    await daemon.sandboxes.stop(pod)
    await daemon.sandboxes.remove(pod)
    assert (daemon.sandboxes.list(), daemon.containers.list()) == ([], [])
    assert (bench.world.attached, bench.world.snapshots) == ({}, {})


async def test_removing_the_pod_alone_is_enough(bench: Bench, sleeper: Task) -> None:
    daemon, pod, _ = await vanish(bench, sleeper)
    await daemon.sandboxes.remove(pod)
    assert not process.is_alive(sleeper.pid, sleeper.pid_start)
    assert (daemon.sandboxes.list(), daemon.containers.list(), bench.world.snapshots) == ([], [], {})


async def test_what_needs_the_runtime_names_the_section(bench: Bench, sleeper: Task, tmp_path: Path) -> None:
    daemon, pod, id = await vanish(bench, sleeper)
    own = tmp_path / "containers" / id
    own.mkdir(parents=True)
    (own / "config.json").write_text('{"process": {"args": ["sleep"], "env": []}}')
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: daemon.containers.exec_sync(id, ["true"], 0),
        lambda: daemon.containers.reopen_log(id),
        lambda: daemon.containers.create(pod, container_spec("more")),
    ]
    for call in calls:
        with pytest.raises(RopewalkError, match=r"'crun'.*\[runtimes\.crun\]"):
            await call()
    assert daemon.containers.get(id).phase is ContainerPhase.RUNNING
    assert os.path.exists(f"/proc/{sleeper.pid}")


async def test_a_start_is_refused_and_the_container_stays_as_it_is(bench: Bench, sleeper: Task) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())
    bench.daemon.containers.containers.apply(container.id, lambda one: replace(one, task=sleeper))
    bench.handler = "other"
    daemon = await bench.restart()
    with pytest.raises(RopewalkError, match=r"\[runtimes\.crun\]"):
        await daemon.containers.start(container.id)
    assert daemon.containers.get(container.id).phase is ContainerPhase.CREATED


async def test_they_go_on_where_they_were_when_the_section_is_back(bench: Bench, sleeper: Task) -> None:
    _, _, id = await vanish(bench, sleeper)
    bench.handler = "crun"
    bench.world.processes[id] = sleeper
    daemon = await bench.restart()
    assert daemon.containers.get(id).phase is ContainerPhase.RUNNING
    assert (await daemon.containers.exec_sync(id, ["true"], 0)).code == 0


async def test_the_recovery_of_other_pods_does_not_suffer(bench: Bench, sleeper: Task) -> None:
    daemon, pod, _ = await vanish(bench, sleeper)
    other = await daemon.sandboxes.run(pod_spec("other"))
    container = await daemon.containers.create(other.id, container_spec())
    await daemon.containers.start(container.id)
    stray = f"/ropewalk-test/pod{'0' * 64}"
    daemon = await bench.restart(adopt=False)
    daemon.cgroups.present = [stray]
    await daemon.recovery.run()
    assert {one.id: one.phase for one in daemon.sandboxes.list()} == {pod: PodPhase.READY, other.id: PodPhase.READY}
    bench.world.end(container.id, 3)
    await daemon.containers.stop(container.id, 5)
    assert daemon.containers.get(container.id).exit_code == 3
    assert daemon.cgroups.killed == [stray]
