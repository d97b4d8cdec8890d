"""The daemon as a process: start, refusals, signals, what it says of a node that lacks something."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tools import node as nodes

FORBIDDEN = ("urllib3", "rich", "isal", "hypothesis", "xml", "http.client", "email", "unittest")


@pytest.fixture
async def private() -> AsyncIterator[nodes.Node]:
    """A node that the test starts, and stops, itself."""
    made = nodes.Node(None)
    yield made
    await made.close()


async def launch(private: nodes.Node) -> None:
    """Start it, and wait for its socket but not for Ready."""
    with private.log_file.open("ab") as log:
        private.process = subprocess.Popen(private.command(), stdout=log, stderr=log, env=private.environment)
    async with asyncio.timeout(20):
        while not private.listens():
            await asyncio.sleep(0.01)


def serve(private: nodes.Node, **places: str) -> subprocess.CompletedProcess[str]:
    """Another daemon that shall not start; `places` replace those of the running one."""
    chosen = {"root": str(private.root), "state": str(private.state), "address": private.address} | places
    flags = [part for name, place in chosen.items() for part in (f"--{name}", place)]
    command = [sys.executable, "-m", "ropewalk", "serve", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def events(private: nodes.Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in private.log().splitlines()]


async def test_modes(private: nodes.Node) -> None:
    await private.start()
    assert stat.S_IMODE(os.stat(private.address).st_mode) == 0o660
    assert stat.S_IMODE(private.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.state.stat().st_mode) == 0o711
    private.stop()


async def test_a_second_daemon_is_refused_wherever_it_would_meet_the_first(private: nodes.Node) -> None:
    await private.start()
    other = {"root": str(private.base / "r2"), "state": str(private.base / "s2"), "address": str(private.base / "a2")}
    refusals = {
        "root": f"another ropewalk daemon holds {private.root}",
        "state": f"another ropewalk daemon holds {private.state}",
        "address": "another",
    }

    def refused(shared: str) -> subprocess.CompletedProcess[str]:
        return serve(private, **{name: f"{place}-{shared}" for name, place in other.items() if name != shared})

    with ThreadPoolExecutor() as pool:  # each waits for a moment: what holds it may be the child of a killed daemon
        for done, said in zip(pool.map(refused, refusals), refusals.values(), strict=True):
            assert (done.returncode, len(done.stderr.splitlines())) == (5, 1), done.stderr
            assert said in done.stderr
    async with private.client() as client:
        assert (await client.version()).runtime_name == "ropewalk"
    private.stop()


async def test_the_service_manager_is_told_and_sigterm_is_quick(private: nodes.Node, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        private.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        await private.start()
        assert manager.recv(100) == b"READY=1"
        began = time.monotonic()
        private.stop()
        took = time.monotonic() - began
        assert manager.recv(100) == b"STOPPING=1"
    assert took < 10  # a fraction of a second on a quiet machine
    assert not os.path.exists(private.address)


async def test_a_killed_daemons_socket_is_no_obstacle(private: nodes.Node) -> None:
    await private.start()
    private.kill()
    assert os.path.exists(private.address)
    await private.start()
    private.stop()


async def test_missing_programs_are_said_in_status_and_pods_fail_clearly(private: nodes.Node) -> None:
    private.config_file.write_text('[runtimes.crun]\npath = "/nonexistent/crun"\n')
    await launch(private)
    await private.tried()
    async with private.client() as client:
        status = await client.status(verbose=True)
        condition = status.condition("RuntimeReady")
        assert not condition.status
        assert "/nonexistent/crun" in condition.message
        assert "apt-get install crun" in condition.message
        assert await client.containers() == []
    private.stop()


async def test_warnings_name_file_key_and_the_nearest(private: nodes.Node) -> None:
    with private.config_file.open("a") as file:
        file.write("[netwrok]\nmtu = 1\n")
    await private.start()
    assert f"{private.config_file}: unknown key netwrok; did you mean network?" in [e["msg"] for e in events(private)]
    private.stop()


async def test_a_wrong_value_stops_the_start(private: nodes.Node) -> None:
    done = serve(private, address="/" + "x" * 120)
    assert (done.returncode, "longer than 107 bytes" in done.stderr) == (2, True)
    (private.base / "r2").mkdir(mode=0o700)
    (private.base / "r2/content").touch()
    done = serve(private, root=str(private.base / "r2"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("ropewalk: cannot start: ")
    command = [sys.executable, "-m", "ropewalk", "serve", "--set", "network.mtu=many"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stderr == "ropewalk: --set network.mtu = 'many': Expected `int`, got `str`\n"


async def test_a_line_per_call_with_its_operation(private: nodes.Node) -> None:
    await private.start()
    async with private.client() as client:
        await client.stop_pod("absent")
    (event,) = [e for e in events(private) if e.get("method") == "StopPodSandbox"]
    assert (event["msg"], event["pod"], event["code"]) == ("call", "absent", "OK")
    assert len(event["op"]) == 8
    private.stop()


async def test_it_is_small_and_loads_nothing_heavy(private: nodes.Node) -> None:
    await private.start()
    with open(f"/proc/{private.pid}/smaps_rollup") as file:
        sizes = {line.split()[0]: int(line.split()[1]) for line in file if line.endswith("kB\n")}
    assert sizes["Pss:"] < 60 << 10
    private.stop()
    program = "import sys, ropewalk.daemon.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert sorted(set(FORBIDDEN) & set(done.stdout.split())) == []
