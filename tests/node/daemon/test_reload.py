"""SIGHUP to a daemon that works."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client import cri
from ropewalk.spec.image import ImageSpec
from tools import images, trace
from tools import node as nodes


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        yield manager


@pytest.fixture
async def private(manager: socket.socket) -> AsyncIterator[nodes.Node]:
    """A node without mirrors, running."""
    made = nodes.Node(None, environment={"NOTIFY_SOCKET": manager.getsockname()})
    await made.start()
    assert manager.recv(4096) == b"READY=1"
    yield made
    await made.close()


def reload(node: nodes.Node, manager: socket.socket) -> str:
    """What it says when it is done."""
    os.kill(node.pid, signal.SIGHUP)
    assert manager.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    ready, _, status = manager.recv(4096).decode().partition("\n")
    assert ready == "READY=1"
    return status.removeprefix("STATUS=")


async def effective(client: cri.Client) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads((await client.status(verbose=True)).info["config"])
    return shown


def pins(node: nodes.Node) -> int:
    return sum(name.startswith(node.instance) for name in os.listdir("/run/netns"))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_live_takes_effect(private: nodes.Node, manager: socket.socket, registry: Any) -> None:
    """A mirror becomes known, an image becomes pinned, the pool shrinks, debug events appear; no call fails."""
    hosts = private.base / "certs.d/docker.io"
    async with private.client() as client:
        await eventually(lambda: pins(private) == 4)
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'[host."{registry.url}"]\n')  # read by every pull: needs no reload
        await client.pull(ImageSpec(image=images.BUSYBOX))
        (image,) = await client.images()
        assert not image.pinned
        directory = private.base / "elsewhere"
        text = private.config_file.read_text().replace(str(private.base / "certs.d"), str(directory))
        pinned = f'pinned = ["{images.BUSYBOX}"]\npull_workers = 1\n[network]\nready = 1\n'
        private.config_file.write_text(text.replace("[network]\n", pinned) + '[log]\nlevel = "debug"\n')
        assert reload(private, manager).startswith("configuration reloaded, changed: log.level, network.ready, images.")
        (image,) = await client.images()
        assert image.pinned
        await eventually(lambda: pins(private) == 1)
        shown = await effective(client)
        assert (shown["network"]["ready"], shown["images"]["registry_hosts"]) == (1, [str(directory)])
        assert any(json.loads(line)["level"] == "debug" for line in private.log().splitlines())
    private.stop()


async def test_nothing_is_half_applied(private: nodes.Node, manager: socket.socket) -> None:
    text = private.config_file.read_text()
    async with private.client() as client:
        before = await effective(client)
        for more, why in (
            ('[log]\nlevel = "debug"\n[runtimes.crun]\npath = 7\n', "runtimes.crun.path = 7"),
            ('[log]\nlevel = "debug"\n[runtimes.crun]\npath = "other"\n', "only with a restart: runtimes.crun.path"),
            ("[", "cannot read"),
        ):
            private.config_file.write_text(text + more)
            assert why in reload(private, manager)
            assert await effective(client) == before
        private.config_file.write_text(text)
        assert reload(private, manager) == "configuration reloaded, changed: nothing"
    private.stop()


async def test_a_storm_of_hangups_is_survived(private: nodes.Node, manager: socket.socket) -> None:
    manager.close()
    async with private.client() as client:
        for _ in range(200):
            os.kill(private.pid, signal.SIGHUP)
        assert (await client.version()).runtime_name == "ropewalk"
    assert private.process is not None
    assert private.process.poll() is None
    private.stop()


async def test_a_hangup_during_the_start_does_not_end_it(tmp_path: Path) -> None:
    """containerd/containerd#13285: the signal's default is death."""
    node = nodes.Node(None)
    try:
        with node.log_file.open("ab") as log:
            node.process = subprocess.Popen(node.command(), stdout=log, stderr=log, env=node.environment)
        await eventually(lambda: caught(node.pid))
        os.kill(node.pid, signal.SIGHUP)
        while not os.path.exists(node.address):
            await asyncio.sleep(0.01)
            os.kill(node.pid, signal.SIGHUP)
        await eventually(lambda: "configuration reloaded" in node.log())
        node.stop()
    finally:
        await node.close()
    assert trace.added(set(), *node.marks) == []


def caught(pid: int) -> bool:
    """Whether the daemon ignores or handles SIGHUP by now; its first thing, once it is there."""
    masks = [
        int(line.split()[1], 16)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("SigIgn:", "SigCgt:"))
    ]
    return any(mask & 1 << signal.SIGHUP - 1 for mask in masks)
