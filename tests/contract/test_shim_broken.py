"""The driver of shims and a shim that breaks, hangs, or dies."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import time
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes.drivers import bundle
from ropewalk.runtimes.drivers.shim import exits, record, removal, task
from ropewalk.runtimes.handler import Level
from ropewalk.runtimes.handlers import shim
from tests.contract import handlers
from tests.contract.benches import SANDBOX, Bench, make_box
from tests.fakes.shim import Behaviour

pytestmark = pytest.mark.timeout(30)


async def test_a_slow_start_is_waited_for(bench: Bench) -> None:
    handler = bench.make(Behaviour(faults={"start": "slow 1"}))
    pod, made = await bench.pod(handler)
    assert process.is_alive(made.pid, made.pid_start)
    await handler.delete_pod(pod, "")


async def test_a_start_that_fails_says_why(bench: Bench) -> None:
    handler = bench.make(Behaviour(faults={"start": "fail no hypervisor here"}))
    with pytest.raises(RopewalkError, match="no hypervisor here"):
        await bench.pod(handler)
    probe = await handler.probe()
    assert probe.level is Level.PRESENT
    assert "no hypervisor here" in probe.evidence


@pytest.mark.parametrize("fault", ["crash", "garbage", "huge", "eof"])
@pytest.mark.parametrize("method", ["Create", "Start"])
async def test_a_shim_that_breaks_in_the_middle(bench: Bench, method: str, fault: str) -> None:
    handler = bench.make(Behaviour(faults={method: fault}), sandbox="none")
    pod, _ = await bench.pod(handler)
    plan = bench.place.plan("sleep", "100", pod_id=pod)
    plan.spec["annotations"] = {SANDBOX: pod}
    with pytest.raises(RopewalkError) as caught:
        await make_box(handler, plan)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert plan.id[:13] in caught.value.message
    await handler.delete(plan.id, plan.cgroup)
    await handler.delete_pod(pod, "")
    assert bench.place.found() == []


async def test_a_create_that_never_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller leaves, the removal waits for a while and ends the shim with the pod. How that Create ended is
    nobody's, and no complaint of asyncio's."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    monkeypatch.setattr(removal, "CREATE_SECONDS", 0.2)
    handler = bench.make(Behaviour(faults={"Create": "never"}), sandbox="none")
    pod, made = await bench.pod(handler)
    plan = bench.place.plan("true", pod_id=pod)
    creating = asyncio.ensure_future(handler.create(plan))
    async with asyncio.timeout(10):
        while plan.id not in handler.creating:
            await asyncio.sleep(0.01)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    made_by = handler.creating[plan.id]
    await handler.delete(plan.id, plan.cgroup)
    await handler.delete_pod(pod, "")
    assert not process.is_alive(made.pid, made.pid_start)
    await asyncio.wait([made_by])
    del made_by, creating
    gc.collect()
    assert complaints == []


async def test_a_call_that_is_not_answered_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "CREATE_SECONDS", 0.3)
    handler = bench.make(Behaviour(faults={"Start": "never"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    with pytest.raises(RopewalkError, match=r"did not answer Start within 0\.3 s") as caught:
        await bench.box(handler, pod, "true")
    assert caught.value.kind is Kind.TIMEOUT


@pytest.mark.parametrize("pid", [0, 1])
async def test_a_shim_that_names_no_process_of_its_own(bench: Bench, pid: int) -> None:
    """One in a PID namespace of its own, say. What it names would be killed one day."""
    handler = bench.make(Behaviour(tells={"Connect": pid}), sandbox="none")
    with pytest.raises(RopewalkError, match=f"says that it is process {pid}") as caught:
        await bench.pod(handler)
    assert caught.value.kind is Kind.UNAVAILABLE
    await handler.sweep(set())
    assert bench.place.found() == []


async def test_one_that_knows_no_task_yet_and_says_nothing_of_itself(bench: Bench) -> None:
    """runwasi answers Connect with NOT_FOUND but for a task that it has; a pod's shim has none at first."""
    handler = bench.make(Behaviour(faults={"Connect": "refuse 5 not found"}), sandbox="none")
    pod, made = await bench.pod(handler)
    (shim,) = handler.binary.starters(pod)
    assert (made.monitor_pid, made.monitor_start) == (shim, process.start_time(shim))
    first = await bench.box(handler, pod, "sleep", "100")
    await handler.close()
    later = bench.again(sandbox="none")
    assert (await later.observe(first.id, first.task)).alive
    second = await bench.box(later, pod, "sh", "-c", "exit 7")
    assert (await second.wait()).code == 7
    waiting = asyncio.ensure_future(later.wait(first.id, first.task, first.plan.cgroup))
    await later.signal(first.id, first.task, signal.SIGKILL)
    assert (await waiting).code == 137
    await later.delete_pod(pod, "")
    assert not process.is_alive(made.monitor_pid, made.monitor_start)


async def test_one_of_which_nothing_tells_which_process_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = bench.make(Behaviour(faults={"Connect": "refuse 5 not found"}), sandbox="none")
    with monkeypatch.context() as patched:
        patched.setattr(handler.binary, "starters", lambda id: [])
        with pytest.raises(RopewalkError, match="does not say which process it is") as caught:
            await bench.pod(handler)
    assert caught.value.kind is Kind.UNAVAILABLE
    await handler.sweep(set())
    assert bench.place.found() == []


async def test_a_container_that_is_no_process_of_the_nodes(bench: Bench) -> None:
    handler = bench.make(Behaviour(tells={"Create": 1}), sandbox="none")
    pod, _ = await bench.pod(handler)
    plan = bench.place.plan("true", pod_id=pod)
    plan.spec["annotations"] = {SANDBOX: pod}
    with pytest.raises(RopewalkError, match="says that it is process 1"):
        await make_box(handler, plan)
    await handler.delete(plan.id, plan.cgroup)
    await handler.delete_pod(pod, "")
    assert bench.place.found() == []


async def test_a_machines_container_that_is_no_process_at_all_is_its_shims(bench: Bench) -> None:
    handler = bench.make(Behaviour(tells={"Create": 0}), sandbox="none")
    pod, made = await bench.pod(handler)
    box = await bench.box(handler, pod, "true")
    assert box.task.pid == made.pid
    assert (await box.wait()).code == 0


@pytest.mark.parametrize("ended", [0, -5, 1 << 60])
async def test_an_end_that_cannot_be(bench: Bench, ended: int) -> None:
    """What an agent that lost a process says of it: the CRI has neither such codes nor such times."""
    handler = bench.make(Behaviour(tells={"Wait": 0xFFFF_FFFF, "ended": ended}), sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    assert (await box.exec("true")).code == 255
    before = time.time_ns()
    await handler.signal(box.id, box.task, signal.SIGKILL)
    exit = await box.wait()
    assert (exit.code, before <= exit.at <= time.time_ns()) == (255, True)


async def test_a_sandbox_that_fails_is_not_tried_as_a_container(bench: Bench) -> None:
    """`auto` asks whether there is the Sandbox API. What it says of a virtual machine that does not boot counts."""
    handler = bench.make(Behaviour(sandbox=True, faults={"CreateSandbox": "refuse 2 out of memory"}), sandbox="auto")
    with pytest.raises(RopewalkError, match="out of memory"):
        await bench.pod(handler)
    assert bench.called("Create") == []
    await handler.sweep(set())
    assert bench.place.found() == []


async def test_a_shim_that_speaks_otherwise_by_now_is_removed_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(shim: task.Shim, id: str) -> None:
        raise RopewalkError(f"{id}: the shim's answer cannot be read")

    handler = bench.make(sandbox="none")
    pod, made = await bench.pod(handler)
    await handler.close()
    monkeypatch.setattr(task.Shim, "greet", refuse)
    monkeypatch.setattr(removal, "SHUTDOWN_SECONDS", 0.1)
    await bench.again(sandbox="none").delete_pod(pod, "")
    assert not process.is_alive(made.pid, made.pid_start)
    assert bench.place.found() == []


async def test_a_command_whose_start_is_not_answered_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "CREATE_SECONDS", 0.2)
    handler = bench.make(Behaviour(faults={"Start": "never"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "true", start=False)
    with pytest.raises(RopewalkError, match="did not answer Start"):
        await box.exec("sleep", "100")
    assert [call["signal"] for call in bench.called("Kill")] == [signal.SIGKILL]


async def test_a_command_longer_than_a_frame(bench: Bench) -> None:
    handler = bench.make(sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    with pytest.raises(RopewalkError, match="4194304 are allowed") as caught:
        await box.exec("echo", "x" * (5 << 20))
    assert caught.value.kind is Kind.INVALID
    assert (await box.exec("echo", "on")).stdout == b"on\n"


@pytest.mark.parametrize("fault", ["eof", "never", "crash", "refuse 2 no", "stays"])
async def test_a_shutdown_without_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(task, "SHUTDOWN_SECONDS", 0.3)
    monkeypatch.setattr(removal, "SHUTDOWN_SECONDS", 0.3)
    monkeypatch.setattr(removal, "MACHINE_SECONDS", 0.3)
    stays = fault == "stays"
    handler = bench.make(Behaviour(faults={} if stays else {"Shutdown": fault}, stays=stays), sandbox="none")
    pod, made = await bench.pod(handler)
    before = time.monotonic()
    await handler.delete_pod(pod, "")
    assert time.monotonic() - before < 5
    assert not process.is_alive(made.pid, made.pid_start)
    assert bench.place.found() == []


async def test_a_shim_that_dies_takes_its_containers(bench: Bench) -> None:
    handler = bench.make()
    pod, made = await bench.pod(handler)
    boxes = [await bench.box(handler, pod, "sleep", "100") for _ in range(2)]
    waits = [asyncio.ensure_future(box.wait()) for box in boxes for _ in range(2)]
    await asyncio.sleep(0.05)
    os.kill(made.pid, signal.SIGKILL)
    for exit in await asyncio.gather(*waits):
        assert (exit.code, exit.reason) == (137, "Unknown")
        assert f"process {made.monitor_pid}" in exit.message
    assert sorted(call["id"] for call in bench.called("delete")) == sorted(box.id for box in boxes)
    with pytest.raises(RopewalkError) as caught:
        await boxes[0].exec("true")
    assert caught.value.kind is Kind.UNAVAILABLE
    for box in boxes:
        await box.kill()
        await box.delete()
    await handler.delete_pod(pod, "")


async def test_an_end_that_the_shim_sees_late_is_waited_for(bench: Bench) -> None:
    """A task left in it would keep it from ending by itself."""
    handler = bench.make(Behaviour(late=2))
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "true")
    assert (await box.wait()).code == 0
    await box.delete()
    await handler.delete_pod(pod, "")
    assert len(bench.called("Delete")) == 2 * 3
    assert bench.called("delete") == []  # the verb is for the dead
    assert bench.place.found() == []


def run_machine(bench: Bench, pod: str) -> tuple[subprocess.Popen[bytes], int]:
    """As Kata has its hypervisor: in the pod's own cgroup, and it outlives the shim. With its start time."""
    machine = subprocess.Popen(["sleep", "1000"])
    path = f"{bench.place.cgroup}/{pod}"
    bench.place.cgroups.make(path)
    bench.place.cgroups.add(path, machine.pid)
    return machine, process.start_time(machine.pid) or 0


async def test_the_machine_of_a_dead_shim_is_ended_with_its_containers(bench: Bench) -> None:
    handler = bench.make()
    pod, made = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    machine, start = run_machine(bench, pod)
    os.kill(made.monitor_pid, signal.SIGKILL)
    assert (await box.wait()).reason == "Unknown"
    assert not process.is_alive(machine.pid, start)
    machine.wait()
    await box.delete()
    await handler.delete_pod(pod, "")


async def test_the_machine_of_a_shim_that_died_in_its_boot_is_ended_with_the_pod(bench: Bench) -> None:
    """Its program's verb knows nothing of it yet, and fails."""
    handler = bench.make(Behaviour(faults={"delete": "fail no such sandbox"}))
    pod, made = await bench.pod(handler)
    machine, start = run_machine(bench, pod)
    os.kill(made.monitor_pid, signal.SIGKILL)
    await handler.delete_pod(pod, f"{bench.place.cgroup}/{pod}")
    assert not process.is_alive(machine.pid, start)
    machine.wait()
    assert bench.place.found() == []


async def test_a_shim_that_died_while_the_daemon_was_away(bench: Bench) -> None:
    handler = bench.make(Behaviour(faults={"Start": "after crash"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    await handler.close()
    await asyncio.sleep(0.1)
    box.handler = bench.again(sandbox="none")
    seen = await box.handler.observe(box.id, box.task)
    assert (seen.alive, seen.exit is not None and seen.exit.reason) == (False, "Unknown")
    assert (await box.handler.observe(box.id, box.task)).exit == seen.exit
    assert (await box.wait()) == seen.exit
    assert len(bench.called("delete")) == 1  # once, however often it is asked


async def test_a_clean_up_that_fails_holds_up_nothing(bench: Bench) -> None:
    handler = bench.make(Behaviour(faults={"Start": "after crash", "delete": "fail no"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    assert (await box.wait()).reason == "Unknown"
    await box.delete()
    await handler.delete_pod(pod, "")
    assert bench.place.found() == []


async def test_a_shim_that_hangs_does_not_hold_up_the_next_daemon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "OBSERVE_SECONDS", 0.3)
    handler = bench.make(Behaviour(faults={"State": "never"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    later = bench.again(sandbox="none")
    assert (await later.observe(box.id, box.task)).alive


@pytest.mark.parametrize("name", sorted(handlers.SHIMS))
async def test_one_that_hangs_keeps_its_containers(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The kernel tells the end of one; the others go on, and can be used as soon as it speaks again."""
    monkeypatch.setattr(exits, "DEAF_SECONDS", 0.3)
    monkeypatch.setattr(removal, "DELETE_SECONDS", 0.3)
    program = handlers.SHIMS[name]
    if program is None:
        pytest.skip(f"no {name}")
    handler = bench.real(program)
    pod, made = await bench.pod(handler)
    one, other = [await bench.box(handler, pod, "sleep", "100") for _ in range(2)]
    waits = [asyncio.ensure_future(box.wait()) for box in (one, other)]
    os.kill(made.monitor_pid, signal.SIGSTOP)
    os.kill(one.task.pid, signal.SIGKILL)
    exit = await waits[0]
    assert (exit.code, exit.reason) == (137, "Unknown")
    assert f"process {made.monitor_pid}" in exit.message
    await one.delete()
    assert process.is_alive(other.task.pid, other.task.pid_start)
    monkeypatch.undo()
    os.kill(made.monitor_pid, signal.SIGCONT)
    assert (await other.exec("echo", "on")).stdout == b"on\n"
    await other.kill()
    assert (await waits[1]).reason == ""
    await other.delete()
    await handler.delete_pod(pod, "")
    assert bench.place.found() == []


async def test_a_machine_whose_shim_hangs_is_killed_by_who_wants_a_container_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else could end what is in it."""
    monkeypatch.setattr(task, "KILL_SECONDS", 0.3)
    handler = bench.make(Behaviour(faults={"Kill": "never"}))
    pod, made = await bench.pod(handler)
    boxes = [await bench.box(handler, pod, "sleep", "100") for _ in range(2)]
    waits = [asyncio.ensure_future(box.wait()) for box in boxes]
    with pytest.raises(RopewalkError) as caught:
        await handler.signal(boxes[0].id, boxes[0].task, signal.SIGTERM)
    assert caught.value.kind is Kind.TIMEOUT
    assert process.is_alive(made.pid, made.pid_start)
    await handler.signal(boxes[0].id, boxes[0].task, signal.SIGKILL)
    for exit in await asyncio.gather(*waits):
        assert (exit.code, exit.reason) == (137, "Unknown")
    assert not process.is_alive(made.pid, made.pid_start)


async def test_one_that_was_never_written_down_is_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It greeted, and its record failed: whoever removes what it was started for does not know its address."""

    def fail(own: record.Bundle, served: record.Served) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    handler = bench.make(sandbox="none")
    monkeypatch.setattr(record.Bundle, "write_served", fail)
    with pytest.raises(RopewalkError, match="No space left"):
        await bench.pod(handler)
    assert len(handler.connections._shims) == 1
    await handler.sweep(set())
    async with asyncio.timeout(10):
        while handler.connections._shims:
            await asyncio.sleep(0.01)


async def test_commands_of_a_killed_daemon_are_ended(bench: Bench) -> None:
    handler = bench.make(sandbox="none")
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    running = asyncio.ensure_future(box.exec("sleep", "77"))
    async with asyncio.timeout(10):
        while not process.find(b"77"):
            await asyncio.sleep(0.01)
    later = bench.again(sandbox="none")
    assert (await later.observe(box.id, box.task)).alive
    assert handler.bundle(box.id).execs() == []
    assert (await running).code == 137


async def test_who_looks_at_a_bundle_that_is_not_whole_is_left_alone(bench: Bench) -> None:
    """An editor, a backup, `tail`: only what has a runtime's name works for it."""
    handler = bench.make(boundary="namespaces", engine="crun", name="containerd-shim-runc-v2")
    plan = bench.place.plan("true")
    own = handler.bundle(plan.id)
    own.make(bundle.Record(runtime=handler.name))
    script = ("-c", "read -r line; exit 0", "sh", own.directory)
    with subprocess.Popen(["sh", *script], stdin=subprocess.PIPE) as reader:
        with subprocess.Popen(["/usr/bin/crun", *script], executable="/bin/sh", stdin=subprocess.PIPE) as worker:
            async with asyncio.timeout(10):
                while process.program_name(worker.pid) != b"crun":  # there is an instant after exec without arguments
                    await asyncio.sleep(0.001)
            await handler.delete(plan.id, plan.cgroup)
            assert worker.wait(10) == -9
        assert not os.path.exists(own.directory)
        reader.communicate(b"\n", timeout=10)
        assert reader.returncode == 0


async def test_an_old_socket_of_the_same_name_is_no_shim(bench: Bench) -> None:
    """A shim that was killed leaves its socket; the pod's removal takes it away."""
    handler = bench.make(sandbox="none")
    pod, made = await bench.pod(handler)
    served = handler.bundle(pod).read_served()
    assert served is not None
    path = task.socket_path(served.endpoint.address)
    os.kill(made.pid, signal.SIGKILL)
    assert os.path.exists(path)
    await handler.delete_pod(pod, "")
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    ("complaint", "word"),
    [
        ("Unix syslog delivery error", "/dev/log"),
        ('Cannot find usable config file (config file "/etc/kata-containers/configuration.toml" ...)', "config_path"),
        ("/etc/kata.toml: host system doesn't support vsock: stat /dev/vhost-vsock: no such file", "vhost_vsock"),
        ("/etc/kata.toml: file /usr/share/kata-containers/vmlinux.container does not exist", "correct its path"),
        ("something else", ""),
    ],
)
async def test_what_it_says_comes_with_what_to_do(bench: Bench, complaint: str, word: str) -> None:
    """Kata 4.1.0's own words, by Create; then nothing of it is left."""
    handler = bench.make(Behaviour(faults={"Create": f"refuse 2 {complaint}"}))
    probe = await handler.probe()
    assert probe.level is Level.PRESENT
    assert complaint in probe.evidence
    assert word in probe.advice
    assert bool(probe.advice) is bool(word)
    assert bench.place.found() == []


@pytest.mark.parametrize(
    ("info", "version"), [("", "containerd-shim-fake-v2 0.1"), ("4.1.0", "containerd-shim-kata-v2 4.1.0")]
)
async def test_the_probe_boots_one(bench: Bench, info: str, version: str) -> None:
    probe = await bench.make(Behaviour(sandbox=True, info=info)).probe()
    assert (probe.level, probe.version) == (Level.WORKS, version)
    assert "ran" in probe.evidence
    absent = shim.Handler(shim.Config(path="io.containerd.nothing.v2"), bench.place.node)
    assert (await absent.probe()).level is Level.ABSENT
