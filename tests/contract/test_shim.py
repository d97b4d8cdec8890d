"""The driver of shims and a shim that does everything that shims do, well or badly (tests/fakes/shim.py)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes import trial
from ropewalk.runtimes.drivers.shim import exits, removal, streams, task
from ropewalk.runtimes.handler import ContainerPlan, Level, PodPlan, Task
from ropewalk.runtimes.handlers import shim
from ropewalk.runtimes.streams import STDERR, STDOUT
from ropewalk.spec import pod as pods
from ropewalk.spec.pod import LinuxContainerResources
from tests.fakes import shim as fake
from tests.fakes.boxes import Box, Place
from tests.fakes.shim import Behaviour

pytestmark = pytest.mark.timeout(30)

SANDBOX = "io.kubernetes.cri.sandbox-id"
KATA = "containerd-shim-kata-v2"
OPTIONS = pods.NamespaceOption(pid=pods.NamespaceMode.CONTAINER)  # kubelet's default
SECURITY = pods.LinuxSandboxSecurityContext(namespace_options=OPTIONS)
SPEC = pods.PodSpec(linux=pods.LinuxPodSandboxConfig(security_context=SECURITY))


class Bench:
    """A place, and handlers of fake shims in it."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place, self.directory = place, directory
        self.handlers: list[shim.Handler] = []
        self.program = Path()

    def make(self, behaviour: Behaviour | None = None, *, name: str = KATA, **config: Any) -> shim.Handler:
        self.program = fake.install(self.directory / "shims", behaviour, name)
        return self.again(**config)

    def again(self, **config: Any) -> shim.Handler:
        """The next daemon's."""
        self.handlers.append(shim.Handler(shim.Config(path=str(self.program), **config), self.place.node))
        return self.handlers[-1]

    def behave(self, behaviour: Behaviour) -> None:
        """From the next start on."""
        fake.install(self.directory / "shims", behaviour, self.program.name)

    async def pod(self, handler: shim.Handler, netns: str = "") -> tuple[str, Task]:
        id = ids.new_id()
        path = f"{self.place.cgroup}/{id}"
        spec = trial.build_spec(path)
        spec["annotations"] = {SANDBOX: id, "io.kubernetes.cri.container-type": "sandbox"}
        namespaces = {"network": netns} if netns else {}
        plan = PodPlan(
            id,
            SPEC,
            spec,
            cgroup=path,
            parent=self.place.cgroup,
            namespaces=namespaces,
            monitor_cgroup=f"{self.place.cgroup}/monitors",
        )
        task = await handler.create_pod(plan)
        assert task is not None
        return id, task

    async def box(self, handler: shim.Handler, pod: str, *args: str, start: bool = True, **options: Any) -> Box:
        plan = self.place.plan(*args, pod_id=pod, **options)
        plan.spec["annotations"] = {SANDBOX: pod}
        return await make_box(handler, plan, start=start)

    def called(self, method: str) -> list[dict[str, Any]]:
        return [call for call in fake.calls(self.program) if call["method"] == method]


async def make_box(handler: shim.Handler, plan: ContainerPlan, *, start: bool = True) -> Box:
    """In a pod that is there already."""
    box = Box(handler, plan, await handler.create(plan))
    if start:
        await box.start()
    return box


@pytest.fixture
async def bench(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Whatever a test left is swept, and nothing is left then."""
    bench = Bench(place, tmp_path)
    yield bench
    monkeypatch.undo()
    if bench.program.name:
        bench.behave(Behaviour())
    for handler in bench.handlers:
        await handler.sweep(set())
        await handler.close()
    assert place.found() == []
    assert [pid for pid in process.find(os.fsencode(bench.program)) if process.command_line(pid)] == []


# What a good one gets


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("dialect", "answer"),
    [("legacy", "plain"), ("legacy", "json"), ("bootstrap", "protobuf"), ("bootstrap", "plain"), ("", "plain")],
)
async def test_every_way_to_start(bench: Bench, dialect: str, answer: str, version: int) -> None:
    handler = bench.make(Behaviour(dialect=dialect, answer=answer, version=version))
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (await box.wait()).code == 3
    assert sorted(box.log()) == [("stderr", "F", "err"), ("stdout", "F", "out")]
    await box.delete()
    await handler.delete_pod(pod, "")
    assert bench.place.found() == []


async def test_a_pod_of_kata(bench: Bench, tmp_path: Path) -> None:
    """One shim, the Sandbox API, and everything that it is handed."""
    handler = bench.make(Behaviour(sandbox=True), config_path="/etc/kata.toml")
    pod, made = await bench.pod(handler, netns="/run/netns/x")
    boxes = [await bench.box(handler, pod, "sleep", "100") for _ in range(3)]
    [sandbox] = bench.called("CreateSandbox")
    assert (sandbox["id"], sandbox["netns"], sandbox["config"]) == (pod, "/run/netns/x", "/etc/kata.toml")
    assert sandbox["annotations"][SANDBOX] == pod
    assert {box.task.pid for box in boxes} == {made.pid}  # the machine's
    first = bench.called("Create")[0]
    [[kind, source, mount_options]] = first["rootfs"]
    assert (kind, source) == ("overlay", "overlay")
    assert f"lowerdir={bench.place.image}" in mount_options
    assert (first["root"]["path"], first["options"]) == ("rootfs", "runtimeoptions.v1.Options")
    assert len(bench.called("start")) == 2  # the second learnt that one serves all
    for box in boxes:
        await box.delete()
    await handler.delete_pod(pod, "")
    assert fake.methods(bench.program)[-3:] == ["StopSandbox", "ShutdownSandbox", "Shutdown"] or fake.methods(
        bench.program
    )[-2:] == ["StopSandbox", "ShutdownSandbox"]
    assert bench.called("delete") == []  # the verb is for the dead
    assert not process.is_alive(made.pid, made.pid_start)


async def test_without_the_sandbox_api_a_container_waits(bench: Bench) -> None:
    handler = bench.make()
    pod, _ = await bench.pod(handler)
    [waiting] = bench.called("Create")
    assert waiting["id"] == pod
    assert waiting["rootfs"][0][0] == "bind"
    box = await bench.box(handler, pod, "true")
    assert (await box.wait()).code == 0


async def test_a_sandbox_api_that_was_asked_for_must_be_there(bench: Bench) -> None:
    handler = bench.make(sandbox="api")
    with pytest.raises(RopewalkError, match="no Sandbox API") as caught:
        await bench.pod(handler)
    assert caught.value.kind is Kind.UNSUPPORTED


async def test_a_shim_for_each_container(bench: Bench) -> None:
    handler = bench.make(Behaviour(groups=False))
    pod, made = await bench.pod(handler)
    boxes = [await bench.box(handler, pod, "sleep", "100") for _ in range(2)]
    assert len({made.pid, *(box.task.pid for box in boxes)}) == 3
    await boxes[0].delete()
    assert not process.is_alive(boxes[0].task.pid, boxes[0].task.pid_start)
    assert process.is_alive(boxes[1].task.pid, boxes[1].task.pid_start)


async def test_behind_another_kernel_everything_goes_by_the_shim(bench: Bench) -> None:
    handler = bench.make(Behaviour(oom=True))
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sh", "-c", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done")
    stats = await handler.stats(box.id, box.task)
    assert stats is not None
    assert stats.memory_usage == 12345
    await handler.update(box.id, box.task, LinuxContainerResources(memory_limit_in_bytes=1 << 20))
    assert bench.called("Update")[0]["resources"] == {"memory": {"limit": 1 << 20}}
    assert (await box.exec("sh", "-c", "echo out; exit 4")).code == 4
    while not box.log():
        await asyncio.sleep(0.01)
    await handler.signal(box.id, box.task, signal.SIGUSR1)
    exit = await box.wait()
    assert exit.code == 5
    await handler.signal(box.id, box.task, signal.SIGTERM)  # gone: no error
    await box.kill()


async def test_memory_exhausted_in_the_guest_is_told(bench: Bench) -> None:
    handler = bench.make(Behaviour(oom=True, reordered=True))
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    await box.kill()
    exit = await box.wait()
    assert (exit.code, exit.oom) == (137, True)


async def test_an_end_of_the_command_is_no_end_of_the_container(bench: Bench) -> None:
    handler = bench.make()
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    assert (await box.exec("false")).code == 1
    with pytest.raises(RopewalkError) as caught:
        await box.exec("sleep", "100", timeout=0.2)
    assert caught.value.kind is Kind.TIMEOUT
    with pytest.raises(RopewalkError, match="no-such-program") as caught:
        await box.exec("no-such-program")
    assert caught.value.kind is Kind.INVALID
    assert (await handler.observe(box.id, box.task)).alive


# Streams


async def test_an_interactive_command(bench: Bench) -> None:
    handler = bench.make()
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    description = {"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "cat; echo end >&2; exit 6"], "cwd": "/"}
    opened = await handler.exec_stream(box.id, box.task, description, tty=False)
    await opened.write(b"hello ")
    await opened.write(b"world\n")
    await opened.resize(80, 24)
    await opened.close_stdin()
    said = {STDOUT: b"", STDERR: b""}
    while (chunk := await opened.read()) is not None:
        said[chunk.stream] += chunk.data
    assert said == {STDOUT: b"hello world\n", STDERR: b"end\n"}
    assert await opened.exit() == 6
    await opened.close()
    await opened.close()
    assert bench.called("ResizePty")[0]["width"] == 80
    assert [name for name in os.listdir(handler.bundle(box.id).directory) if name.startswith("exec-")] == []


async def test_a_command_that_is_let_go_is_killed(bench: Bench) -> None:
    handler = bench.make()
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sleep", "100")
    description = {"user": {"uid": 0, "gid": 0}, "args": ["yes"], "cwd": "/"}
    opened = await handler.exec_stream(box.id, box.task, description, tty=False)
    assert await opened.read() is not None
    await asyncio.sleep(0.1)
    assert isinstance(opened, streams.ExecStreams)
    assert opened._size < 4 * streams.HIGH  # it is held up, not kept
    await opened.close()
    assert await opened.exit() in (137, 141)  # SIGPIPE, if it came first


async def test_attached_to_a_container(bench: Bench) -> None:
    handler = bench.make()
    pod, _ = await bench.pod(handler)
    box = await bench.box(handler, pod, "sh", "-c", "read line; echo got $line; exit 2", start=False, stdin=True)
    attached = await handler.attach(box.id, box.task)
    await box.start()
    await attached.write(b"something\n")
    chunk = await attached.read()
    assert chunk is not None
    assert (chunk.stream, chunk.data) == (STDOUT, b"got something\n")
    assert await attached.exit() == 2
    await attached.close()
    assert [text for _, _, text in box.log()] == ["got something"]


# What a bad one does


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
    """The caller leaves, the removal waits for a while and ends the shim with the pod."""
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
    await handler.delete(plan.id, plan.cgroup)
    await handler.delete_pod(pod, "")
    assert not process.is_alive(made.pid, made.pid_start)


async def test_a_call_that_is_not_answered_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "CREATE_SECONDS", 0.3)
    handler = bench.make(Behaviour(faults={"Start": "never"}), sandbox="none")
    pod, _ = await bench.pod(handler)
    with pytest.raises(RopewalkError, match=r"did not answer Start within 0\.3 s") as caught:
        await bench.box(handler, pod, "true")
    assert caught.value.kind is Kind.TIMEOUT


@pytest.mark.parametrize("fault", ["eof", "never", "crash", "refuse 2 no", "stays"])
async def test_a_shutdown_without_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(task, "SHUTDOWN_SECONDS", 0.3)
    monkeypatch.setattr(removal, "SHUTDOWN_SECONDS", 0.3)
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


async def test_the_probe_boots_one(bench: Bench) -> None:
    probe = await bench.make(Behaviour(sandbox=True)).probe()
    assert (probe.level, probe.version) == (Level.WORKS, "containerd-shim-fake-v2 0.1")
    assert "ran" in probe.evidence
    absent = shim.Handler(shim.Config(path="io.containerd.nothing.v2"), bench.place.node)
    assert (await absent.probe()).level is Level.ABSENT
