"""The command as people use it, as a process of its own, on a private node."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import registry as registries
from tools.node import Node

BUSYBOX = "docker.io/library/busybox:latest"
COUNT = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"
Done = subprocess.CompletedProcess[str]


class Command:
    """`ropewalk` with the node's address; `run` has the node's directory for logs."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.environment = {**os.environ, "ROPEWALK_ADDRESS": node.address, "TERM": "xterm", "COLUMNS": "100"}

    def arguments(self, verb: str, *rest: str) -> list[str]:
        logs = ["--log-dir", str(self.node.logs)] if verb == "run" else []
        return [sys.executable, "-m", "ropewalk", verb, *logs, *rest]

    def __call__(self, *arguments: str) -> Done:
        command = self.arguments(*arguments)
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def ok(self, *arguments: str) -> str:
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        command = self.arguments(*arguments)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def on_terminal(self, *arguments: str) -> tuple[str, int]:
        """What appears on a terminal, and the exit code."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            self.arguments(*arguments), env=self.environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the other side has closed it
                break
            if not data:
                break
            shown += data
        os.close(master)
        return shown.decode(), process.wait(30)


@pytest.fixture
def ropewalk(node: Node) -> Iterator[Command]:
    command = Command(node)
    yield command
    if node.process is None:
        asyncio.run(node.start())
    command.ok("rm", "--force", "--all")
    assert list(node.logs.iterdir()) == [], "logs that `rm` left"


def wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def test_pull_and_images(ropewalk: Command) -> None:
    id = ropewalk.ok("pull", "busybox").strip()
    (image,) = ropewalk.json("images", "busybox")
    assert (image["id"], BUSYBOX in image["tags"]) == (id, True)
    rows = ropewalk.ok("images", "--digests").splitlines()
    assert re.split(r"  +", rows[0]) == ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "SIZE"]
    assert id[7:19] in ropewalk.ok("images", "-q").split()
    assert ropewalk.ok("pull", "-q", "docker.io/ropewalk/zstd").startswith("sha256:")
    assert ropewalk.ok("rmi", "docker.io/ropewalk/zstd") == "docker.io/ropewalk/zstd\n"
    assert ropewalk("rmi", "docker.io/ropewalk/zstd").returncode == 3


def test_a_pull_that_fails_does_not_stop_the_next(ropewalk: Command) -> None:
    done = ropewalk("pull", "docker.io/library/NOT-VALID", "busybox")
    assert (done.returncode, done.stdout[:7]) == (2, "sha256:")
    assert done.stderr.startswith("ropewalk: ")
    assert len(done.stderr.splitlines()) == 1


def test_progress_on_a_terminal_only(ropewalk: Command) -> None:
    assert ropewalk("pull", "docker.io/ropewalk/layers").stderr == ""
    ropewalk.ok("rmi", "docker.io/ropewalk/layers")
    shown, code = ropewalk.on_terminal("pull", "docker.io/ropewalk/big")
    assert code == 0
    assert "fetching" in shown
    assert re.search(r"\d+(\.\d+)?MB/\d+(\.\d+)?MB", shown)
    assert "\x1b[" in shown


def test_hello(ropewalk: Command) -> None:
    done = ropewalk("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert ropewalk.json("pods") == []


def test_a_foreground_run_is_kept_without_network(ropewalk: Command) -> None:
    ropewalk.ok("run", "--name", "kept", "busybox", "echo", "hello")
    (pod,) = ropewalk.json("pods")
    (container,) = ropewalk.json("ps", "-a")
    assert (pod["state"], container["state"], container["exit_code"]) == ("notready", "exited", 0)
    assert ropewalk.json("ps") == []
    assert ropewalk.ok("logs", "kept") == "hello\n"
    assert ropewalk.ok("rm", "kept") == "kept\n"


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_what_cannot_be_executed(ropewalk: Command, command: str, code: int) -> None:
    done = ropewalk("run", "busybox", command)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ropewalk.json("pods") == []  # a run that fails leaves nothing
    ropewalk.ok("run", "-d", "--name", "e", "busybox", "sleep", "100")
    assert ropewalk("exec", "e", command).returncode == code


def test_flags_reach_the_container(ropewalk: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("of the node\n")
    script = "echo $COLOUR; pwd; id -u; id -g; hostname; cat /data/file; touch /data/x /x; grep Cap /proc/self/status"
    done = ropewalk(
        "run", "--rm", "-e", "COLOUR=red", "-w", "/tmp", "-u", "1000:50", "--hostname", "box", "-v",
        f"{tmp_path}:/data:ro", "--read-only", "--cap-drop", "ALL", "--memory", "64m", "--cpus", "0.5",
        "busybox", "sh", "-c", script,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:6] == ["red", "/tmp", "1000", "50", "box", "of the node"]
    assert {line.split()[0]: int(line.split()[1], 16) for line in lines[6:]}["CapBnd:"] == 0
    assert done.stderr.count("Read-only file system") == 2


def test_entrypoint_and_arguments(ropewalk: Command) -> None:
    image = "docker.io/ropewalk/entrypoint"
    assert ropewalk.ok("run", "--rm", image) == "entry command\n"
    assert ropewalk.ok("run", "--rm", image, "mine") == "entry mine\n"
    assert ropewalk.ok("run", "--rm", "--entrypoint", "/bin/echo", image, "mine") == "mine\n"


def test_the_web_pod(ropewalk: Command) -> None:
    port = registries.free_port()
    id = ropewalk.ok("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "nginx").strip()

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    wait(lambda: "nginx on Ropewalk" in page())
    assert ropewalk("exec", "web", "nginx", "-v").stderr.startswith("nginx version")
    assert ropewalk("exec", id[:8], "sh", "-c", "exit 9").returncode == 9
    wait(lambda: "GET / " in ropewalk.ok("logs", "web"))
    (entry,) = [json.loads(line) for line in ropewalk.ok("logs", "--json", "--tail", "1", "web").splitlines()]
    assert (entry["stream"], "GET / " in entry["log"]) == ("stdout", True)
    (inspected,) = json.loads(ropewalk.ok("inspect", "web"))
    assert (inspected["kind"], inspected["status"]["id"], inspected["info"]["info"]["pid"] > 0) == (
        "container",
        id,
        True,
    )
    (used,) = ropewalk.json("stats", "--no-stream", "web")
    assert used["memory_bytes"] > 0
    assert used["network_rx_bytes"] > 0
    assert used["cpu_percent"] is not None
    name = ropewalk("run", "-d", "--name", "web", "nginx")
    assert (name.returncode, "has the name web" in name.stderr) == (125, True)
    assert ropewalk("rm", "web").returncode == 5
    assert ropewalk("rmi", "nginx").returncode == 5
    assert ropewalk.ok("stop", "web") == "web\n"
    assert ropewalk.json("pods")[0]["state"] == "notready"
    assert page() == ""  # the port is free


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_stops_the_container(ropewalk: Command, number: signal.Signals) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo begun; while :; do sleep 0.05; done"
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored, by children too
    try:
        process = ropewalk.popen("run", "--name", "loop", "busybox", "sh", "-c", script)
    finally:
        signal.signal(number, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("bye\n", "", 9)


def test_a_container_whose_output_nobody_takes_is_stopped(ropewalk: Command) -> None:
    """`ropewalk run --rm busybox yes | head -1` would fill the disk with its log."""
    script = "trap 'exit 0' TERM; while echo y; do sleep 0.05; done"
    process = ropewalk.popen("run", "--rm", "--name", "piped", "busybox", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "y\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 1
    assert ropewalk.json("pods") == []


def test_a_second_ctrl_c_kills_it(ropewalk: Command) -> None:
    script = "trap 'echo no' TERM; echo begun; while :; do sleep 0.05; done"
    process = ropewalk.popen("run", "--name", "hard", "busybox", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "no\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 137


def test_following_over_a_killed_daemon(ropewalk: Command) -> None:
    """Each line once, and the command ends when the container does."""
    ropewalk.ok("run", "-d", "--name", "counter", "busybox", "sh", "-c", COUNT)
    process = ropewalk.popen("logs", "-f", "counter")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(10)]
    asyncio.run(ropewalk.node.restart())
    ropewalk.ok("stop", "--timeout", "0", "counter")
    lines += process.stdout.readlines()  # communicate() would not know what has been read ahead
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("", "", 0)
    assert lines == [f"line {n}\n" for n in range(1, len(lines) + 1)]
    assert len(ropewalk.ok("logs", "--tail", "3", "counter").splitlines()) == 3
    assert ropewalk.ok("logs", "--since", "2006-01-02T15:04:05Z", "counter") == "".join(lines)
    assert ropewalk.ok("logs", "--since", "0s", "counter") == ""
    assert re.match(r"\d{4}-\d\d-\d\dT\S+ line \d+\n", ropewalk.ok("logs", "-t", "--tail", "1", "counter"))


def test_tables_on_a_terminal_and_in_a_pipe(ropewalk: Command) -> None:
    ropewalk.ok("run", "-d", "--name", "t", "-l", "app=t", "busybox", "sleep", "100")
    plain = ropewalk.ok("ps", "--label", "app=t")
    assert "\x1b" not in plain
    assert re.split(r"  +", plain.splitlines()[1])[3:5] == ["Running", "t"]
    shown, code = ropewalk.on_terminal("ps")
    assert (code, "\x1b[1m" in shown, "Running" in shown) == (0, True, True)
    assert len(ropewalk.ok("ps", "--label", "app=other").splitlines()) == 1
    assert len(ropewalk.ok("ps", "-q", "--no-trunc", "--pod", "t").strip()) == 64
    assert re.split(r"  +", ropewalk.ok("pods").splitlines()[1])[2:5] == ["Ready", "t", "default"]


def test_the_node(ropewalk: Command) -> None:
    told = ropewalk.json("info")
    assert (told["runtime"], {c["type"]: c["status"] for c in told["conditions"]}["RuntimeReady"]) == ("ropewalk", True)
    runtimes = {one["name"]: (one["works"], one["default"]) for one in ropewalk.json("runtimes")}
    assert runtimes["crun"] == (True, True)
    assert "RuntimeReady" in ropewalk.ok("info")
    assert "crun" in ropewalk.ok("runtimes")


def test_every_handler_that_works_runs_a_pod(ropewalk: Command) -> None:
    seen = {}
    for one in ropewalk.json("runtimes"):
        if one["works"]:
            seen[one["name"]] = ropewalk.ok("run", "--rm", "--runtime", one["name"], "busybox", "uname", "-s").strip()
            codes = [ropewalk("run", "--runtime", one["name"], "busybox", wrong).returncode for wrong in ("no", "/etc")]
            assert codes == [127, 126], one["name"]
        else:
            done = ropewalk("run", "--rm", "--runtime", one["name"], "busybox", "true")
            assert (done.returncode, "does not work on this node" in done.stderr) == (125, True)
    assert set(seen.values()) == {"Linux"}
    assert {"crun", "runc"} <= set(seen)


def test_no_daemon(ropewalk: Command) -> None:
    ropewalk.node.kill()
    done = ropewalk("ps")
    assert (done.returncode, len(done.stderr.splitlines()), "ropewalk serve" in done.stderr) == (9, 1, True)
    assert ropewalk("run", "busybox").returncode == 125


def test_the_nodes_network_and_a_handler_that_does_not_exist(ropewalk: Command) -> None:
    namespace = ropewalk.ok("run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net")
    assert namespace.strip() == os.readlink("/proc/self/ns/net")
    done = ropewalk("run", "--runtime", "nosuch", "busybox")
    assert (done.returncode, "nosuch" in done.stderr) == (125, True)
