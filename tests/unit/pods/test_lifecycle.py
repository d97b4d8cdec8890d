"""The life cycle of pods and containers over a node in memory: repeats, overtaking, failures, kills."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.pods import recovery
from ropewalk.pods.records import ContainerPhase, PodPhase
from ropewalk.runtimes.handler import Task
from ropewalk.spec.pod import NamespaceMode
from tests.fakes.world import FakeHandler
from tests.unit.pods.conftest import Bench, Gate, container_spec, pod_spec, settle, with_pid


async def running(bench: Bench, name: str = "c") -> tuple[str, str]:
    daemon = bench.daemon
    pod = await daemon.sandboxes.run(pod_spec())
    container = await daemon.containers.create(pod.id, container_spec(name))
    await daemon.containers.start(container.id)
    return pod.id, container.id


def phase(bench: Bench, id: str) -> ContainerPhase:
    return bench.daemon.containers.get(id).phase


async def test_a_pod_runs_stops_and_leaves_nothing(bench: Bench) -> None:
    pod_id, id = await running(bench)
    assert phase(bench, id) is ContainerPhase.RUNNING
    await bench.daemon.sandboxes.stop(pod_id)
    assert bench.daemon.sandboxes.get(pod_id).phase is PodPhase.NOTREADY
    assert phase(bench, id) is ContainerPhase.EXITED
    assert bench.daemon.containers.get(id).exit_code == 137
    await bench.daemon.sandboxes.remove(pod_id)
    assert not bench.daemon.sandboxes.list()
    assert not bench.daemon.containers.list()
    assert bench.world.is_empty


async def test_stop_and_remove_of_what_is_absent_are_fine(bench: Bench) -> None:
    await bench.daemon.sandboxes.stop("00")
    await bench.daemon.sandboxes.remove("00")
    await bench.daemon.containers.stop("00", 1)
    await bench.daemon.containers.remove("00")


async def test_the_same_request_again_gets_the_same_pod_and_container(bench: Bench) -> None:
    pod_id, id = await running(bench)
    assert (await bench.daemon.sandboxes.run(pod_spec())).id == pod_id
    assert (await bench.daemon.containers.create(pod_id, container_spec())).id == id


async def test_another_config_under_the_same_name_exists_and_names_the_difference(bench: Bench) -> None:
    await running(bench)
    with pytest.raises(RopewalkError, match="labels") as caught:
        await bench.daemon.sandboxes.run(pod_spec(labels={"a": "b"}))
    assert caught.value.kind is Kind.EXISTS


async def test_a_retry_while_it_is_being_made_joins(bench: Bench) -> None:
    gate = asyncio.Event()

    async def hook(where: str) -> None:
        if where == "attach":
            await gate.wait()

    bench.world.hook = hook
    first = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec()))
    await settle()
    assert not bench.daemon.sandboxes.list()
    first.cancel()  # the client timed out
    second = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec()))
    await settle()
    gate.set()
    pod = await second
    assert [p.id for p in bench.daemon.sandboxes.list()] == [pod.id]


async def test_a_retry_with_another_config_replaces_what_was_never_reported(bench: Bench) -> None:
    gate = asyncio.Event()

    async def hook(where: str) -> None:
        if where == "attach" and not gate.is_set():
            gate.set()
            await asyncio.Event().wait()

    bench.world.hook = hook
    first = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec()))
    await gate.wait()
    pod = await bench.daemon.sandboxes.run(pod_spec(labels={"a": "b"}))
    assert pod.spec.labels == {"a": "b"}
    with pytest.raises(RopewalkError) as caught:
        await first
    assert caught.value.kind is Kind.CANCELLED
    assert list(bench.world.attached) == [pod.id]


async def test_a_retry_with_another_config_gets_that_while_an_older_attempt_is_undone(bench: Bench) -> None:
    """What an earlier attempt left had the same config as the retry, what is being run has not."""
    fails = True

    async def hook(where: str) -> None:
        if fails and where in ("attach", "detach"):
            raise RopewalkError(where)

    bench.world.hook = hook
    with pytest.raises(RopewalkError):
        await bench.daemon.sandboxes.run(pod_spec())
    fails = False
    bench.world.hook = gate = Gate("detach")
    first = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec(labels={"a": "b"})))
    await gate.reached.wait()
    again = asyncio.ensure_future(bench.daemon.sandboxes.run(pod_spec()))
    await settle()
    gate.opened.set()
    assert (await again).spec.labels == {}
    with pytest.raises(RopewalkError, match="overtaken"):
        await first
    assert len(bench.daemon.sandboxes.list()) == 1


@pytest.mark.parametrize("where", ["attach", "pod"])
async def test_a_failed_run_leaves_nothing(bench: Bench, where: str) -> None:
    async def hook(at: str) -> None:
        if at == where:
            raise RopewalkError(f"{where} fails")

    bench.world.hook = hook
    with pytest.raises(RopewalkError, match=f"{where} fails"):
        await bench.daemon.sandboxes.run(with_pid(pod_spec(), NamespaceMode.POD))
    assert bench.world.is_empty
    assert not list(bench.daemon.sandboxes.pods)


@pytest.mark.parametrize("where", ["prepare", "create"])
async def test_a_failed_create_leaves_nothing(bench: Bench, where: str) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())

    async def hook(at: str) -> None:
        if at == where:
            raise RopewalkError(f"{where} fails")

    bench.world.hook = hook
    with pytest.raises(RopewalkError, match=f"{where} fails"):
        await bench.daemon.containers.create(pod.id, container_spec())
    assert not bench.world.snapshots
    assert not list(bench.daemon.containers.containers)


async def test_an_undo_that_fails_keeps_the_row_and_a_retry_finishes_it(bench: Bench) -> None:
    broken = True

    async def hook(where: str) -> None:
        if where == "attach" or (where == "detach" and broken):
            raise RopewalkError(where)

    bench.world.hook = hook
    with pytest.raises(RopewalkError):
        await bench.daemon.sandboxes.run(pod_spec())
    [row] = list(bench.daemon.sandboxes.pods)
    assert row.phase is PodPhase.MAKING
    broken = False
    daemon = await bench.restart()
    assert not list(daemon.sandboxes.pods)


async def test_a_repeat_while_the_recovery_undoes_joins_it(bench: Bench) -> None:
    """The undo takes as long as CNI plugins take; the row must not vanish below whoever is half-way through it."""
    undone = asyncio.Event()

    async def fail(where: str) -> None:
        if where in ("attach", "detach"):
            raise RopewalkError(where)

    async def wait(where: str) -> None:
        if where == "detach":
            await undone.wait()

    bench.world.hook = fail
    with pytest.raises(RopewalkError):
        await bench.daemon.sandboxes.run(pod_spec())
    daemon = await bench.restart(adopt=False)
    [left] = list(daemon.sandboxes.pods)
    bench.world.hook = wait
    recovery = asyncio.ensure_future(daemon.recovery.run())
    repeat = asyncio.ensure_future(daemon.sandboxes.run(pod_spec()))
    for _ in range(20):
        await asyncio.sleep(0)
    undone.set()
    pod = await repeat
    await recovery
    assert pod.id != left.id
    assert [row.id for row in daemon.sandboxes.pods] == [pod.id]


async def test_stop_overtakes_a_create_and_wins(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    creating = asyncio.Event()

    async def hook(where: str) -> None:
        if where == "create":
            creating.set()
            await asyncio.Event().wait()

    bench.world.hook = hook
    create = asyncio.ensure_future(bench.daemon.containers.create(pod.id, container_spec()))
    await creating.wait()
    await bench.daemon.sandboxes.stop(pod.id)
    with pytest.raises(RopewalkError) as caught:
        await create
    assert caught.value.kind is Kind.CANCELLED
    assert bench.world.is_empty


async def test_create_in_a_pod_that_is_not_ready_is_refused(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    await bench.daemon.sandboxes.stop(pod.id)
    with pytest.raises(RopewalkError) as caught:
        await bench.daemon.containers.create(pod.id, container_spec())
    assert caught.value.kind is Kind.STATE


async def test_an_image_that_is_not_here_is_not_found(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    with pytest.raises(RopewalkError, match="nothing") as caught:
        await bench.daemon.containers.create(pod.id, container_spec(image="nothing"))
    assert caught.value.kind is Kind.NOT_FOUND


async def test_a_container_starts_once(bench: Bench) -> None:
    _, id = await running(bench)
    with pytest.raises(RopewalkError) as caught:
        await bench.daemon.containers.start(id)
    assert caught.value.kind is Kind.STATE


@pytest.mark.parametrize(
    "error", [RopewalkError("no such file"), OSError(24, "no such file"), ValueError("no such file")]
)
async def test_a_failed_start_is_recorded_and_raised(bench: Bench, error: Exception) -> None:
    """Whatever is raised: it does not stay created, which kubelet would leave alone."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())

    async def hook(where: str) -> None:
        if where == "start":
            raise error

    bench.world.hook = hook
    with pytest.raises(type(error), match="no such file"):
        await bench.daemon.containers.start(container.id)
    failed = bench.daemon.containers.get(container.id)
    assert (failed.phase, failed.exit_code, failed.reason) == (ContainerPhase.EXITED, 128, "StartError")
    assert "no such file" in failed.message
    assert not bench.world.processes


async def test_a_container_that_ends_by_itself_is_exited_at_once(bench: Bench) -> None:
    _, id = await running(bench)
    bench.world.end(id, 3)
    await settle()
    ended = bench.daemon.containers.get(id)
    assert (ended.phase, ended.exit_code, ended.reason) == (ContainerPhase.EXITED, 3, "Error")


async def test_stop_sends_the_stop_signal_and_waits_for_the_process(bench: Bench) -> None:
    _, id = await running(bench)
    await bench.daemon.containers.stop(id, 10)
    assert bench.world.signals == [(id, 15)]
    assert phase(bench, id) is ContainerPhase.EXITED


async def test_stop_kills_what_does_not_obey_and_the_shortest_timeout_wins(bench: Bench) -> None:
    _, id = await running(bench)
    bench.world.obeys = {9}
    await asyncio.gather(bench.daemon.containers.stop(id, 60), bench.daemon.containers.stop(id, 0.01))
    assert bench.world.signals == [(id, 15), (id, 9)]
    assert bench.daemon.containers.get(id).exit_code == 137


@pytest.mark.parametrize("kind", [Kind.DENIED, Kind.TIMEOUT])
async def test_who_cannot_be_asked_to_stop_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """An AppArmor profile may let no signal in; a shim or a Sentry may hang."""
    _, id = await running(bench)
    handler = bench.daemon.containers._handlers["crun"]
    signal = handler.signal

    async def denied(id: str, task: Task, signum: int) -> None:
        if signum != 9:
            raise RopewalkError("its AppArmor profile does not let signal 15 in", kind=kind)
        await signal(id, task, signum)

    monkeypatch.setattr(handler, "signal", denied)
    async with asyncio.timeout(20):
        await bench.daemon.containers.stop(id, 600)
    assert bench.daemon.containers.get(id).exit_code == 137


async def test_all_containers_stop_when_the_node_goes_down(bench: Bench) -> None:
    """Each with its stop signal, all at once; what does not end is killed."""
    ids = []
    for name in ("one", "other"):
        pod = await bench.daemon.sandboxes.run(pod_spec(name))
        ids.append((await bench.daemon.containers.create(pod.id, container_spec())).id)
    await bench.daemon.containers.start(ids[0])
    assert await bench.daemon.containers.stop_all(0.5) == []
    assert [bench.daemon.containers.get(id).exit_code for id in ids] == [0, 137]
    assert (ids[0], 15) in bench.world.signals
    assert (ids[1], 15) not in bench.world.signals  # it was never started


async def test_timeout_zero_kills_at_once(bench: Bench) -> None:
    _, id = await running(bench)
    await bench.daemon.containers.stop(id, 0)
    assert bench.world.signals == [(id, 9)]


async def test_a_pod_whose_init_ends_is_not_ready(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(with_pid(pod_spec(), NamespaceMode.POD))
    await settle()  # the fake init's pid names no process: its pidfd cannot be opened
    assert bench.daemon.sandboxes.get(pod.id).phase is PodPhase.NOTREADY


async def test_exec_runs_in_a_running_container_only(bench: Bench) -> None:
    pod_id, id = await running(bench)
    assert (await bench.daemon.containers.exec_sync(id, ["ls", "/"], 1)).stdout == b"ls /"
    await bench.daemon.containers.stop(id, 0)
    with pytest.raises(RopewalkError) as caught:
        await bench.daemon.containers.exec_sync(id, ["ls"], 1)
    assert caught.value.kind is Kind.STATE
    assert pod_id


class TestAfterAKill:
    async def test_a_running_container_is_adopted_and_its_end_is_seen(self, bench: Bench) -> None:
        _, id = await running(bench)
        daemon = await bench.restart()
        assert daemon.containers.get(id).phase is ContainerPhase.RUNNING
        bench.world.end(id, 7)
        await settle()
        assert daemon.containers.get(id).exit_code == 7

    async def test_an_end_while_the_daemon_was_down_is_told_truly(self, bench: Bench) -> None:
        _, id = await running(bench)
        await bench.daemon.close()
        bench.world.end(id, 7)
        daemon = await bench.restart()
        ended = daemon.containers.get(id)
        assert (ended.exit_code, ended.reason) == (7, "Error")

    async def test_what_vanished_without_trace_is_255_with_the_reason(self, bench: Bench) -> None:
        _, id = await running(bench)
        await bench.daemon.close()
        bench.world.processes.clear()
        daemon = await bench.restart()
        ended = daemon.containers.get(id)
        assert (ended.phase, ended.exit_code, ended.reason) == (ContainerPhase.EXITED, 255, "Unknown")
        assert "while the daemon was down" in ended.message

    async def test_another_boot_makes_pods_not_ready_and_stop_still_works(self, bench: Bench) -> None:
        pod_id, id = await running(bench)
        bench.boot_id = "boot-2"
        daemon = await bench.restart()
        assert daemon.sandboxes.get(pod_id).phase is PodPhase.NOTREADY
        assert daemon.containers.get(id).exit_code == 255
        await daemon.sandboxes.stop(pod_id)
        await daemon.sandboxes.remove(pod_id)
        assert not daemon.sandboxes.list()

    async def test_control_groups_that_nobody_owns_go(self, bench: Bench) -> None:
        id = await bench.daemon.sandboxes.run(pod_spec())
        daemon = await bench.restart(adopt=False)
        stray = ["/ropewalk-test/podx", "/ropewalk-test/probe-absent-1"]
        kept = [f"/ropewalk-test/pod{id}", f"/ropewalk-test/pod{id}/x", "/ropewalk-test/probe-crun-1", "/other/podx"]
        daemon.cgroups.present = [*stray, *kept]
        await daemon.recovery.run()
        assert daemon.cgroups.killed == stray

    async def test_a_sweep_that_fails_keeps_no_other_back_and_is_repeated(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures: list[Exception] = [OSError(5, "a bad disk"), RopewalkError("busy")]

        async def sweep(self: FakeHandler, owned: set[str]) -> list[str]:
            if failures:
                raise failures.pop(0)
            return []

        monkeypatch.setattr(FakeHandler, "sweep", sweep)
        monkeypatch.setattr(recovery, "RETRY", 0.001)
        stray = f"/ropewalk-test/pod{'0' * 64}"
        layer = "1" * 64
        bench.world.snapshots[layer] = ""
        daemon = await bench.restart(adopt=False)
        daemon.cgroups.present = [stray]
        await daemon.recovery.run()
        assert (daemon.cgroups.killed, bench.world.snapshots, len(failures)) == ([stray], {}, 1)
        bench.world.snapshots[layer] = ""  # only what failed is repeated: by now a create may be under way
        retries = asyncio.create_task(daemon.recovery.retry())
        async with asyncio.timeout(20):
            while failures:
                await asyncio.sleep(0.001)
        retries.cancel()
        assert layer in bench.world.snapshots

    async def test_lists_answer_before_adoption_and_calls_on_a_pod_wait_for_it(self, bench: Bench) -> None:
        pod_id, id = await running(bench)
        daemon = await bench.restart(adopt=False)
        assert [pod.id for pod in daemon.sandboxes.list()] == [pod_id]
        stop = asyncio.ensure_future(daemon.containers.stop(id, 1))
        await settle()
        assert not stop.done()
        await daemon.recovery.run()
        await stop
        assert daemon.containers.get(id).phase is ContainerPhase.EXITED


async def test_a_client_that_leaves_does_not_leave_a_start_half_way(bench: Bench) -> None:
    pod = await bench.daemon.sandboxes.run(pod_spec())
    container = await bench.daemon.containers.create(pod.id, container_spec())
    gate = asyncio.Event()

    async def hook(where: str) -> None:
        if where == "start":
            await gate.wait()

    bench.world.hook = hook
    first = asyncio.ensure_future(bench.daemon.containers.start(container.id))
    await settle()
    first.cancel()
    retry = asyncio.ensure_future(bench.daemon.containers.start(container.id))
    await settle()
    gate.set()
    await retry
    assert phase(bench, container.id) is ContainerPhase.RUNNING


async def test_a_container_waits_until_it_is_known_what_its_handler_can_do(bench: Bench) -> None:
    """In a pod that an earlier daemon made; what is not probed yet would be refused."""
    pod = await bench.daemon.sandboxes.run(pod_spec())
    daemon = await bench.restart(probed=False)
    creating = asyncio.ensure_future(daemon.containers.create(pod.id, container_spec()))
    await settle()
    assert not creating.done()
    daemon.probed()
    assert (await creating).phase is ContainerPhase.CREATED
