"""One product under measurement: started privately, in its own cgroup, with a client and a population of pods."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import cni, images
from bench.accounting import Group
from bench.kubelet import Kubelet, Pod, listens, wait_ready
from ropewalk.linux import mount
from ropewalk.version import VERSION
from tools import node, registry

READY = 60.0  # seconds
WORKERS = 5  # pods that are started or removed at once when the population changes


class Took:
    """What passed inside a `with side.clock()`."""

    ms = 0.0


class Side(ABC):
    """`base` is its directory below /var/tmp. Nothing of it is left after `close`."""

    name: str
    tag: str
    base: Path
    address: str
    shim = ""  # the handler whose pods belong to containerd's shim for runc

    def __init__(self) -> None:
        self.group = Group(self.tag)
        self.process: subprocess.Popen[bytes] | None = None
        self.pods: list[Pod] = []
        self.changed = 0.0  # monotonic time of the last change of the population
        self.client_seconds = self.clock_seconds = 0.0
        self.kubelet: Kubelet
        (self.base / "podlogs").mkdir()

    @abstractmethod
    def command(self) -> list[str]:
        """The daemon in the foreground."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def dismantle(self) -> None:
        """Remove what is left when its pods are gone."""

    @abstractmethod
    def use(self, network: str) -> None:
        """What later pods with a network of their own hang on: "bridge" or "cni"; pods that are there stay as they
        are. A product without a network of its own uses the CNI plugins for both."""

    # The daemon.

    def start(self) -> float:
        """Seconds from exec to an answer that says RuntimeReady and NetworkReady."""
        before = time.monotonic()
        with (self.base / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.group.joined(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not listens(self.address):
            if self.process.poll() is not None or time.monotonic() > before + READY:
                raise RuntimeError(f"{self.name} does not start:\n{self.log()}")
            time.sleep(0.002)
        self.kubelet = Kubelet(self.address, self.group, str(self.base / "podlogs"))
        for pod in self.pods:
            pod.kubelet = self.kubelet
        wait_ready(self.kubelet, before + READY)
        return time.monotonic() - before

    def stop(self) -> None:
        """SIGTERM; its pods go on."""
        self._end(terminate=True)

    def kill(self) -> None:
        """SIGKILL; its pods go on."""
        self._end(terminate=False)

    def _end(self, *, terminate: bool) -> None:
        if self.process is None:
            return
        self.kubelet.close()
        if terminate:
            self.process.terminate()
        else:
            self.process.kill()
        self.process.wait(30)
        self.process = None

    def log(self) -> str:
        path = self.base / "daemon.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-40:]) if path.exists() else ""

    # The clock, and what the client itself used while it ran.

    @contextlib.contextmanager
    def clock(self) -> Iterator[Took]:
        took = Took()
        client, before = time.process_time(), time.perf_counter()
        yield took
        seconds = time.perf_counter() - before
        took.ms = seconds * 1000
        self.client_seconds += time.process_time() - client
        self.clock_seconds += seconds

    # The population: pods that stay while several figures are taken.

    def populate(self, pods: int, containers: int) -> None:
        """Exactly so many pods with so many containers each; what is there already stays if it can."""
        if len(self.pods) == pods and all(len(pod.containers) == containers for pod in self.pods):
            return
        if len(self.pods) > pods or any(len(pod.containers) > containers for pod in self.pods):
            self._for_each(self.pods, self._discard)
            self.pods = []
        fresh = [self.kubelet.pod() for _ in range(pods - len(self.pods))]
        self.pods += fresh

        def grow(pod: Pod) -> None:
            if not pod.id:
                pod.run()
            while len(pod.containers) < containers:
                pod.start("main" if not pod.containers else f"more-{len(pod.containers)}")
            pod.settle()

        self._for_each(self.pods, grow)
        self.changed = time.monotonic()

    @staticmethod
    def _discard(pod: Pod) -> None:
        pod.remove()
        pod.forget()

    @staticmethod
    def _for_each(pods: list[Pod], act: Callable[[Pod], None]) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(act, pods))

    def payloads(self) -> list[str]:
        return [id for pod in self.pods for id in pod.containers]

    def close(self) -> None:
        """Pods first, in peace if possible; then whatever is there."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.populate(0, 0)
                self.stop()
        finally:
            self.group.kill()
            if self.process is not None:
                self.process.wait(10)
                self.process = None
            try:
                self.dismantle()
            finally:
                self.group.remove()


class Node(node.Node):
    """With its state on a tmpfs, as both products have it where /run is one."""

    def __init__(self, served: registry.Registry) -> None:
        super().__init__(served, environment={"ROPEWALK_CGROUP_DRIVER": "cgroupfs"})  # as containerd's
        self.state.mkdir()
        mount.tmpfs(str(self.state))

    def left(self) -> list[str]:
        mount.umount(str(self.state))
        return super().left()


class Ropewalk(Side):
    """A node of tools/node.py, inside the cgroup."""

    name = "ropewalk"
    shim = "shim"

    def __init__(self, served: registry.Registry) -> None:
        self.node = Node(served)
        self.tag, self.base, self.address = self.node.tag, self.node.base, self.node.address
        self.network = "bridge"
        directory = cni.write(self.base, self.tag)
        with self.node.config_file.open("a") as file:
            file.write(f'[network.cni]\nconf_dir = "{directory}"\nbin_dirs = ["{cni.directory()}"]\n')
            if program := shutil.which("containerd-shim-runc-v2"):
                file.write(f'[runtimes.shim]\npath = "{program}"\nengine = "runc"\n')  # as containerd's default
        super().__init__()

    def command(self) -> list[str]:
        return self.node.command()

    def version(self) -> str:
        return VERSION

    def use(self, network: str) -> None:
        if network == self.network:
            return
        self.stop()
        text = self.node.config_file.read_text()
        self.node.config_file.write_text(text.replace(f'mode = "{self.network}"', f'mode = "{network}"'))
        self.network = network
        self.start()

    def dismantle(self) -> None:
        cni.remove(self.tag)
        self.node.has_run = bool(self.pods)  # then only a daemon can remove them in order
        asyncio.run(self.node.close())


def prepare(side: Side) -> None:
    """Running, with the payload unpacked and one pod behind it: caches and pools are warm on both sides."""
    side.start()
    side.kubelet.pull(images.PAYLOAD)
    for host_network in (True, False):
        pod = side.kubelet.pod(host_network=host_network)
        pod.run()
        pod.start()
        pod.exec("/bin/true")
        pod.settle()
        pod.remove()
        pod.forget()
