"""The Handler contract: what every handler promises, tried on real containers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup_systemd, process
from ropewalk.runtimes.handler import Handler, PodPlan
from ropewalk.runtimes.handlers import shim
from ropewalk.spec.pod import LinuxContainerResources, PodSpec
from tests.contract import handlers
from tests.fakes.boxes import NAMESPACES, Box, Place, create, run

pytestmark = pytest.mark.timeout(120)

SHIM_DIED = (137, "its shim")  # it takes its containers with it
UNTIL_TOLD = "while test ! -e /end; do sleep 0.05; done"  # a container's script, until `tell`


async def tell(box: Box) -> None:
    assert (await box.exec("touch", "/end")).code == 0


async def test_the_probe_really_runs_something(handler: Handler) -> None:
    probe = await handler.probe()
    assert probe.works, probe
    assert probe.version
    assert "ran" in probe.evidence


# Lifecycle


async def test_a_created_container_waits_until_it_is_started(handler: Handler, place: Place) -> None:
    box = await create(handler, place.plan("echo", "started"))
    seen = await handler.observe(box.id, box.task)
    assert (seen.alive, seen.started) == (True, False)
    assert box.log() == []
    await box.start()
    assert (await box.wait()).code == 0
    assert (await handler.observe(box.id, box.task)).started
    assert box.log() == [("stdout", "F", "started")]
    await box.delete()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$; sleep 9", 143), ("kill -KILL $$", 137)]
)
async def test_exit_codes_are_exact(handler: Handler, place: Place, script: str, code: int) -> None:
    before = time.time_ns()
    box = await run(handler, place.plan("sh", "-c", f"sh -c '{script}'; exit $?"))
    exit = await box.wait()
    assert (exit.code, exit.oom, exit.reason) == (code, False, "")
    assert before < exit.at < time.time_ns()


async def test_a_container_killed_from_outside_has_code_137(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sleep", "100"))
    os.kill(box.task.pid, signal.SIGKILL)
    assert (await box.wait()).code == 137


async def test_a_signal_reaches_init_and_a_dead_init_is_no_error(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"))
    while not box.log():
        await asyncio.sleep(0.01)
    await handler.signal(box.id, box.task, signal.SIGUSR1)
    assert (await box.wait()).code == 5
    await handler.signal(box.id, box.task, signal.SIGTERM)
    await box.kill()


async def test_kill_ends_what_outlived_init(handler: Handler, place: Place) -> None:
    """Without a PID namespace nothing but the cgroup knows them."""
    if handler.capabilities.own_kernel:
        pytest.skip("the node does not see its processes; each such handler has a test of its own")
    namespaces = tuple(kind for kind in NAMESPACES if kind != "pid")
    box = await run(handler, place.plan("sh", "-c", "setsid sleep 100 & setsid sleep 101 &", namespaces=namespaces))
    assert (await box.wait()).code == 0
    if not isinstance(handler, shim.Handler):  # runc's shim ends them itself
        assert len(place.cgroups.processes(box.plan.cgroup)) == 2
    await box.kill()
    assert place.cgroups.processes(box.plan.cgroup) == []


async def test_kill_ends_a_container_that_was_never_started(handler: Handler, place: Place) -> None:
    box = await create(handler, place.plan("true"))
    waiting = asyncio.ensure_future(box.wait())  # as the daemon does all the time
    await asyncio.sleep(0)
    await box.kill()
    assert (await waiting).code == (await box.wait()).code == 137


async def test_the_next_daemon_adopts(handler: Handler, handler_name: str, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", f"{UNTIL_TOLD}; exit 9"))
    box.handler = await handlers.ready(handler_name, place)
    assert (await box.handler.observe(box.id, box.task)).alive
    await tell(box)
    assert (await box.wait()).code == 9
    seen = await box.handler.observe(box.id, box.task)
    assert not seen.alive
    assert seen.exit is not None
    assert seen.exit.code == 9
    assert (await box.wait()).code == 9  # and may be asked again
    await box.handler.close()


async def test_several_may_wait(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "sleep 0.2; exit 4"))
    exits = await asyncio.gather(*(box.wait() for _ in range(3)))
    assert [exit.code for exit in exits] == [4, 4, 4]


async def test_memory_exhaustion_is_reported(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "container_limits")
    linux = {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}
    box = await run(handler, place.plan("sh", "-c", "tail /dev/zero; exit $?", linux=linux))
    exit = await box.wait()
    assert (exit.code, exit.oom) == (137, True)


async def test_a_killed_monitor_is_said(handler: Handler, place: Place) -> None:
    """Either the kernel still knows the true code (Linux 6.15), or it is 255 with the reason."""
    box = await run(handler, place.plan("sh", "-c", f"{UNTIL_TOLD}; exit 6"))
    waiting = asyncio.ensure_future(box.wait())
    await asyncio.sleep(0.1)
    os.kill(box.task.monitor_pid, signal.SIGKILL)
    if not isinstance(handler, shim.Handler):
        await tell(box)
    exit = await waiting
    if exit.code != 6:
        code, why = SHIM_DIED if isinstance(handler, shim.Handler) else (255, "monitor was killed")
        assert (exit.code, exit.reason) == (code, "Unknown")
        assert why in exit.message


async def test_a_container_lost_with_its_monitor_is_unknown(handler: Handler, place: Place) -> None:
    if handler.capabilities.own_kernel:
        pytest.skip("its kernel still knows; each such handler has a test of its own")
    box = await run(handler, place.plan("sleep", "100"))
    os.kill(box.task.monitor_pid, signal.SIGKILL)
    await box.kill()
    while process.start_time(box.task.pid) == box.task.pid_start:  # until it is reaped, the kernel could tell
        await asyncio.sleep(0.01)
    seen = await handler.observe(box.id, box.task)
    assert not seen.alive
    assert seen.exit is None or seen.exit.reason == "Unknown"
    exit = await box.wait()
    assert (exit.code, exit.reason) == (SHIM_DIED[0] if isinstance(handler, shim.Handler) else 255, "Unknown")


# Refusals


async def test_a_command_that_is_not_there_is_the_callers_error(handler: Handler, place: Place) -> None:
    plan = place.plan("no-such-program")
    with pytest.raises(RopewalkError, match="no-such-program") as caught:
        await run(handler, plan)
    assert caught.value.kind is Kind.INVALID
    assert plan.id[:13] in caught.value.message
    await handler.delete(plan.id, plan.cgroup)
    await handler.sweep(set())  # a pod that was made for it
    assert place.found() == []


async def test_a_started_container_cannot_be_started_again(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("true"))
    await box.wait()
    with pytest.raises(RopewalkError):
        await box.start()


async def test_delete_works_from_any_state_and_twice(handler: Handler, place: Place) -> None:
    created = await create(handler, place.plan("true"))
    running = await run(handler, place.plan("sleep", "100"))
    exited = await run(handler, place.plan("true"))
    await exited.wait()
    for box in (created, running, exited):
        await box.delete()
        await box.delete()
        assert os.path.exists(box.plan.log_path)  # logs are the kubelet's
    await handler.delete("0" * 64, cgroup_systemd.child(place.cgroup, "0" * 64))
    assert place.found() == []


async def test_sweep_removes_what_nobody_owns_and_nothing_else(handler: Handler, place: Place) -> None:
    kept = await run(handler, place.plan("sleep", "100"))
    strays = [await run(handler, place.plan("sleep", "100")), await create(handler, place.plan("true"))]
    pods = [stray.plan.pod_id for stray in strays if stray.plan.pod is not None]
    found = await handler.sweep({kept.id, kept.plan.pod_id})
    assert sorted(found) == sorted([*(stray.id for stray in strays), *pods])
    assert (await handler.observe(kept.id, kept.task)).alive
    assert (await kept.exec("true")).code == 0


async def test_the_spec_can_be_read_back(handler: Handler, place: Place) -> None:
    box = await create(handler, place.plan("true"))
    assert handler.spec(box.id)["process"]["args"] == ["true"]
    await box.delete()
    with pytest.raises(RopewalkError) as caught:
        handler.spec(box.id)
    assert caught.value.kind is Kind.NOT_FOUND


# The pod's init


async def test_an_init_holds_a_pid_namespace(handler: Handler, place: Place) -> None:
    from ropewalk.runtimes import trial

    id = f"pod-{os.urandom(4).hex()}"  # a name that the node has once
    path = cgroup_systemd.child(place.cgroup, id)
    pod = PodSpec()  # whose containers share one PID namespace
    task = await handler.create_pod(PodPlan(id, pod, trial.build_spec(path), cgroup=path, parent=place.cgroup))
    assert task is not None
    assert (await handler.observe(id, task)).alive
    namespaces = [{"type": kind} for kind in NAMESPACES if kind != "pid"]
    joined = [*namespaces, {"type": "pid", "path": f"/proc/{task.pid}/ns/pid"}]
    box = await run(handler, place.plan("sh", "-c", "test $$ -gt 1", linux={"namespaces": joined}))
    assert (await box.wait()).code == 0
    await box.delete()
    await handler.delete_pod(id, path)
    assert not process.is_alive(task.pid, task.pid_start)
    await handler.delete_pod(id, path)
    assert place.found() == []


# Streams


async def test_the_log_is_what_the_kubelet_reads(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "echo out; echo err >&2; printf part"))
    await box.wait()
    assert sorted(box.log()) == [("stderr", "F", "err"), ("stdout", "F", "out"), ("stdout", "P", "part")]
    stamp = Path(box.plan.log_path).read_text().split(" ")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)", stamp)
    assert stat.S_IMODE(os.stat(box.plan.log_path).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(os.path.dirname(box.plan.log_path)).st_mode) == 0o755


async def test_output_can_be_discarded(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "seq 1 100000", log=False))
    assert (await box.wait()).code == 0


async def test_a_link_planted_as_log_is_refused(handler: Handler, place: Place) -> None:
    victim = Path(place.logs) / "victim"
    victim.write_text("untouched\n")
    os.symlink(victim, Path(place.logs) / "0.log")
    plan = place.plan("echo", "overwritten", log_path=f"{place.logs}/0.log")
    with pytest.raises(RopewalkError) as caught:
        await handler.create(plan)
    assert caught.value.kind is Kind.INVALID
    await handler.delete(plan.id, plan.cgroup)
    assert victim.read_text() == "untouched\n"


async def test_a_reopened_log_loses_no_line(handler: Handler, place: Place) -> None:
    script = "i=0; while test $i -lt 400; do echo $i; i=$((i+1)); test $((i%20)) = 0 && sleep 0.01; done"
    box = await run(handler, place.plan("sh", "-c", f"{script}; {UNTIL_TOLD}"))
    pieces = []
    for number in range(5):
        rotated = f"{box.plan.log_path}.{number}"
        os.rename(box.plan.log_path, rotated)
        await handler.reopen_log(box.id, box.task)
        assert os.path.exists(box.plan.log_path)
        pieces.append(rotated)
        await asyncio.sleep(0.02)
    await tell(box)
    await box.wait()
    text = "".join(Path(path).read_text() for path in [*pieces, box.plan.log_path])
    assert [int(line.split(" ")[3]) for line in text.splitlines()] == list(range(400))
    assert stat.S_IMODE(os.stat(box.plan.log_path).st_mode) == 0o640


async def test_reopening_a_log_in_place_keeps_it(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", f"echo one; {UNTIL_TOLD}; echo two"))
    while not box.log():
        await asyncio.sleep(0.01)
    await handler.reopen_log(box.id, box.task)
    await tell(box)
    await box.wait()
    assert [text for _, _, text in box.log()] == ["one", "two"]


async def test_a_log_that_cannot_be_reopened_leaves_no_file(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sleep", "100"))
    directory = os.path.dirname(box.plan.log_path)
    os.rename(directory, f"{directory}-away")
    with pytest.raises(RopewalkError, match="No such file"):
        await handler.reopen_log(box.id, box.task)
    assert (await handler.observe(box.id, box.task)).alive
    os.rename(f"{directory}-away", directory)
    await box.kill()
    await box.wait()
    os.rename(box.plan.log_path, f"{box.plan.log_path}.1")
    with pytest.raises(RopewalkError) as caught:
        await handler.reopen_log(box.id, box.task)
    assert caught.value.kind is Kind.STATE
    assert os.listdir(directory) == ["0.log.1"]


async def test_what_has_ended_cannot_be_started(handler: Handler, place: Place) -> None:
    """Killed before its start; nor can a command run in it."""
    box = await create(handler, place.plan("sleep", "100"))
    await box.kill()
    assert (await box.wait()).code == 137
    for use in (box.start, lambda: box.exec("true")):
        with pytest.raises(RopewalkError) as caught:
            await use()
        assert (caught.value.kind, box.id[:13] in caught.value.message) == (Kind.STATE, True)


async def test_stdin_is_empty_unless_asked_for(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("cat"))
    assert (await box.wait()).code == 0
    box = await run(handler, place.plan("cat", stdin=True))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(box.wait(), 0.3)


async def test_a_terminal_is_one(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sh", "-c", "test -t 0 && test -t 1 && echo yes >&2", tty=True))
    assert (await box.wait()).code == 0
    log = box.log()  # in as many pieces as the monitor read
    assert ({stream for stream, _, _ in log}, "".join(text for _, _, text in log).strip()) == ({"stdout"}, "yes")


# Resources


async def test_limits_change_while_it_runs(handler: Handler, place: Place) -> None:
    handlers.needs(handler, "update")
    linux = {"resources": {"memory": {"limit": 64 << 20}}}
    box = await run(handler, place.plan("sleep", "100", linux=linux))
    await handler.update(box.id, box.task, LinuxContainerResources(memory_limit_in_bytes=32 << 20, cpu_shares=512))
    stats = place.cgroups.stats(box.plan.cgroup)
    assert stats is not None
    assert stats.memory_limit == 32 << 20
    assert (await handler.observe(box.id, box.task)).alive


# What helpers get


async def test_no_value_of_the_image_reaches_a_helper(handler: Handler, place: Place) -> None:
    box = await run(handler, place.plan("sleep", "100"))
    environment = Path(f"/proc/{box.task.monitor_pid}/environ").read_bytes()
    assert b"LD_PRELOAD" not in environment
    assert str(place.image) not in os.readlink(f"/proc/{box.task.monitor_pid}/cwd")
    assert box.task.monitor_pid in place.cgroups.processes(box.plan.monitor_cgroup)


async def test_a_container_has_three_descriptors(handler: Handler, place: Place) -> None:
    listing = "for fd in /proc/self/fd/*; do test -e $fd && echo ${fd##*/}; done"  # the shell's own, no child
    box = await run(handler, place.plan("sh", "-c", listing))
    await box.wait()
    assert [text for _, _, text in box.log()] == ["0", "1", "2"]
