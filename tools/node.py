"""node: a private node with a loopback registry and the test images, for COMMAND or a shell; then it is gone.

Its data lies in a directory of its own below /var/tmp, its names carry its own tag, and its network is the built-in
bridge on a subnet of its own: nodes do not meet each other or the machine's own runtime. REGISTRIES lead to
the loopback registry (hosts.toml), so the images have their usual names.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ropewalk.client import admin, cri
from tools import images, leftovers, registry, trace, workload

REGISTRIES = ("docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io")
LEDGER = "DEV_NODES"  # environment: a file that lists what the names of all nodes of a test run contain
POD_LOGS = Path("/var/log/pods")
READY = 30.0 * workload.SLOWER  # seconds from start to Ready; it takes a fraction of one
TRIALS = 120.0 * workload.SLOWER
STOP = 20.0 * workload.SLOWER


class DidNotStart(Exception):
    """With the end of the daemon's log."""


class LeftOver(Exception):
    """The node ended and something of it was still there; it has been removed since."""


class Node:
    """The daemon as its own process. Methods that speak to it are coroutines of any event loop."""

    made: ClassVar[list[Node]] = []  # by this program, for whoever looks after it
    probes: ClassVar[Path | None] = None  # what an earlier node found of the handlers; a new one begins with it

    def __init__(
        self, served: registry.Registry | None, *, config: str = "", environment: dict[str, str] | None = None
    ) -> None:
        """`served` mirrors REGISTRIES; `config` is TOML that is appended; `environment` is added to the daemon's."""
        self.base = Path(tempfile.mkdtemp(prefix="ropewalk-", dir="/var/tmp"))
        self.base.chmod(0o711)  # root of a pod with users of its own passes through to its root file system
        self.root, self.state, self.logs = (self.base / name for name in ("root", "state", "logs"))
        self.tag = hashlib.sha256(os.path.realpath(self.root).encode()).hexdigest()[:4]
        self.instance = f"ropewalk-{self.tag}"
        self.address = str(self.base / "ropewalk.sock")
        self.environment = {**os.environ, **(environment or {})}
        self.log_file = self.base / "daemon.log"
        self.config_file = self.base / "config.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self.has_run = False
        self._had_pod_logs = POD_LOGS.exists()
        self.logs.mkdir()
        Node.made.append(self)
        if ledger := os.environ.get(LEDGER):
            with open(ledger, "a") as file:
                file.write("".join(f"{mark}\n" for mark in self.marks))
        hosts = self.base / "certs.d"
        for name in REGISTRIES if served is not None else ():
            assert served is not None
            (hosts / name).mkdir(parents=True)
            (hosts / name / "hosts.toml").write_text(f'[host."{served.url}"]\ncapabilities = ["pull", "resolve"]\n')
        self.config_file.write_text(f'[images]\nregistry_hosts = ["{hosts}"]\n[network]\nmode = "bridge"\n{config}')

    # The process.

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon does not run"
        return self.process.pid

    def command(self) -> list[str]:
        places = ("--root", str(self.root), "--state", str(self.state), "--address", self.address)
        return [sys.executable, "-m", "ropewalk", "serve", "--config", str(self.config_file), *places]

    async def start(self) -> float:
        """Start the daemon; seconds until it answers and is ready."""
        before = time.monotonic()
        first = self.probes is not None and not self.has_run
        if self.probes is not None and first:
            shutil.copytree(self.probes, self.state / "probes", dirs_exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        while not self.listens():  # only then a client: gRPC waits a second after a refused connection
            if self.process.poll() is not None:
                raise DidNotStart(f"the daemon ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() - before > READY:
                raise DidNotStart(f"the daemon does not listen on {self.address}:\n{self.log()}")
            await asyncio.sleep(0.005)
        async with self.client() as client:
            try:
                await workload.ready(client, before + READY)
            except TimeoutError as error:
                raise DidNotStart(f"{error}\n{self.log()}") from None
        self.has_run = True
        took = time.monotonic() - before
        if first:
            await self.tried()  # some are set up in a way of their own
        return took

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.address) == 0

    def kill(self) -> None:
        """kill -9: what the daemon must survive at any moment."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def restart(self) -> float:
        self.kill()
        return await self.start()

    def stop(self) -> None:
        """SIGTERM, as a service manager does it. Raises TimeoutExpired if it does not end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(STOP)
            self.process = None

    def log(self, lines: int = 200) -> str:
        """The end of the daemon's log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    # Pods.

    def client(self) -> cri.Client:
        return cri.Client(self.address)

    async def tried(self) -> None:
        """Until every handler was tried, by this daemon or an earlier one."""
        async with asyncio.timeout(TRIALS), admin.Client(self.address) as client:
            while not all(runtime.evidence for runtime in await client.runtimes()):
                await asyncio.sleep(0.05)

    async def learn(self, probes: Path) -> None:
        """Try every handler, and keep what was found for Node.probes."""
        await self.tried()
        shutil.copytree(self.state / "probes", probes)

    # The end.

    async def close(self) -> None:
        """Remove every pod, end the daemon, look for what is left. LeftOver if anything was."""
        try:
            if self.has_run:
                await self._empty()
        finally:
            self.kill()
            left = self.left()
            leftovers.remove(self.marks)
            shutil.rmtree(self.base, ignore_errors=True)
        if left or self.base.exists():
            raise LeftOver("left by the node: " + "; ".join(left or [str(self.base)]))

    async def _empty(self) -> None:
        if self.process is None or self.process.poll() is not None:
            await self.start()
        async with self.client() as client:
            logs = [await log_directory(client, pod.id) for pod in await client.pods()]
            await workload.remove_everything(client)
        self.stop()
        for directory in logs:
            if POD_LOGS in directory.parents:
                shutil.rmtree(directory, ignore_errors=True)
        if not self._had_pod_logs:
            with contextlib.suppress(OSError):
                POD_LOGS.rmdir()

    @property
    def marks(self) -> tuple[str, ...]:
        """What the names of everything this node makes contain."""
        slices = self.instance.replace("-", "_")
        return self.instance, slices, str(self.base), f"link rw{self.tag}"

    def left(self) -> list[str]:
        """What of it is on the machine, apart from its own directory."""
        return trace.added({f"path {self.base}"}, *self.marks)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


async def log_directory(client: cri.Client, id: str) -> Path:
    """Where a pod's logs are, as it was asked for: `ropewalk run` makes directories in POD_LOGS, as kubelet does."""
    _, info = await client.inspect_pod(id, verbose=True)
    return Path(json.loads(info["info"])["config"].get("log_directory", "/"))


@contextlib.contextmanager
def serving() -> Iterator[registry.Registry]:
    """A registry with the test images."""
    made = images.ensure()
    with registry.Registry(made.program, seed=made.storage) as running:
        yield running


def search_path() -> str:
    """PATH with `ropewalk` first, which is beside this Python."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"


def find(program: str) -> str | None:
    """As a shell does, from where ./dev was called."""
    return shutil.which(
        os.path.join(os.environ.get("DEV_CWD", ""), program) if "/" in program else program, path=search_path()
    )


async def run(command: list[str]) -> int:
    """COMMAND (default: a shell) beside a private node; its exit code, as a shell tells it."""
    with serving() as served:
        async with Node(served) as node:
            environment = {**os.environ, "ROPEWALK_ADDRESS": node.address, "PATH": search_path()}
            if not command:
                command = [os.environ.get("SHELL") or "/bin/sh"]
                print(f"node {node.instance}: `ropewalk` speaks to {node.address}; data in {node.base}")
                print(
                    f"images: {images.BUSYBOX}, {images.NGINX}, docker.io/ropewalk/…; leave the shell to end the node",
                    flush=True,
                )
            process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=os.environ.get("DEV_CWD"))
            loop = asyncio.get_running_loop()
            for number in (
                signal.SIGINT,
                signal.SIGTERM,
            ):  # the command's affair; afterwards the node is removed as always
                loop.add_signal_handler(number, lambda: None)
            code = await process.wait()
            return code if code >= 0 else 128 - code


def main() -> int:
    command = sys.argv[1:]
    if command and find(command[0]) is None:
        print(f"./dev node: {command[0]}: not found, or no program", file=sys.stderr)
        return 127
    try:
        return asyncio.run(run(command))
    except DidNotStart as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
