"""The driver of shims and a shim that does everything that shims do, well or badly (tests/fakes/shim.py)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes.drivers.shim import stdio, streams
from ropewalk.runtimes.streams import STDERR, STDOUT
from ropewalk.spec.pod import LinuxContainerResources
from tests.contract.benches import SANDBOX, Bench
from tests.fakes import shim as fake
from tests.fakes.shim import Behaviour

pytestmark = pytest.mark.timeout(30)


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
    assert waiting["hostname"] == os.uname().nodename  # the pod names none
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
    assert [call["all"] for call in bench.called("Kill")] == [False]  # Kata takes all for the whole container
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
    assert isinstance(opened, streams.ExecStreams)
    while opened._size <= streams.HIGH - stdio.CHUNK:  # it may have been held up before the first was taken
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
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
