"""Pods, containers, statistics and images as the CRI facade sees them: tables, and rules without a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from ropewalk import ids
from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState
from ropewalk.images import store
from ropewalk.linux.cgroup import CgroupStats
from ropewalk.network.attachment import Attachment
from ropewalk.network.counters import InterfaceStats
from ropewalk.pods import identity, phases
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase
from ropewalk.pods.stats import ContainerStats, PodStats
from ropewalk.runtimes.handler import ExecResult, Exit, Task
from ropewalk.runtimes.registry import UnknownHandler
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import AuthConfig, ImageConfig
from ropewalk.spec.pod import LinuxContainerResources, PodSpec
from ropewalk.state.database import Database
from ropewalk.state.store import Table
from ropewalk.storage.snapshotter import Usage
from ropewalk.storage.usage import Totals

IMAGE_ID = "sha256:" + "1" * 64
HANDLERS = ("", "crun", "other")
AT = 1_700_000_000_000_000_000


def image(id: str = IMAGE_ID, *, user: str = "", tag: str = "docker.io/library/busybox:1") -> store.Image:
    digest = "docker.io/library/busybox@sha256:" + "2" * 64
    names = {tag: "sha256:" + "2" * 64, digest: "sha256:" + "2" * 64}
    return store.Image(id=id, names=names, documents=[], layers=[], size=1234, config=ImageConfig(user=user))


class FakeSandboxes:
    """READY at once; a second run with the same metadata is adopted or refused as the real one does."""

    def __init__(self, database: Database) -> None:
        self.pods = Table(database, "pods", Pod, noun="pod sandbox")
        self.stopped: list[str] = []

    def get(self, id: str) -> Pod:
        return self.pods.resolve(id)

    def list(self) -> Sequence[Pod]:
        return list(self.pods)

    async def run(self, spec: PodSpec) -> Pod:
        if spec.runtime_handler not in HANDLERS:
            raise UnknownHandler(spec.runtime_handler, HANDLERS)
        for pod in self.pods:
            if identity.pod_key(pod.spec) == identity.pod_key(spec):
                usable = pod.phase is PodPhase.READY
                return identity.adopt(pod, spec, pod.spec, usable=usable, noun="pod sandbox")
        attachment = Attachment(mode="host") if spec.host_network else Attachment("bridge", addresses=["10.0.0.2/24"])
        pod = Pod(
            id=ids.new_id(),
            spec=spec,
            phase=PodPhase.READY,
            handler=spec.runtime_handler or "crun",
            created_at=AT,
            boot_id="b",
            cgroup="/pod",
            attachment=attachment,
            namespaces={"network": "/run/netns/x", "uts": "/run/ropewalk/uts"},
        )
        self.pods.add(pod)
        return pod

    async def stop(self, id: str) -> None:
        pod = self._find(id)
        if pod is not None:
            self.stopped.append(pod.id)
            self.pods.apply(pod.id, phases.torn_down)

    async def remove(self, id: str) -> None:
        pod = self._find(id)
        if pod is not None:
            self.pods.remove(pod.id)

    def _find(self, id: str) -> Pod | None:
        try:
            return self.pods.resolve(id)
        except NotFound:
            return None


class FakeContainers:
    """Containers that run until they are stopped. A command says what exec does: "slow" times out."""

    def __init__(self, database: Database, sandboxes: FakeSandboxes, images: store.Images) -> None:
        self.containers = Table(database, "containers", Container, noun="container")
        self._sandboxes = sandboxes
        self._images = images
        self.timeouts: list[float] = []
        self.archives: list[tuple[str, str, float]] = []

    def get(self, id: str) -> Container:
        return self.containers.resolve(id)

    def list(self) -> Sequence[Container]:
        return list(self.containers)

    async def create(self, pod_id: str, spec: ContainerSpec) -> Container:
        pod = self._sandboxes.get(pod_id)
        if pod.phase is not PodPhase.READY:
            raise WrongState(f"pod sandbox {pod.id!r} is not ready")
        found = self._images.find(spec.image.image)
        if found is None:
            raise NotFound(f"no image {spec.image.image!r}")
        for container in self.containers:
            if identity.container_key(pod.id, spec) == identity.container_key(container.pod_id, container.spec):
                return identity.adopt(container, spec, container.spec, usable=True, noun="container")
        container = Container(
            id=ids.new_id(),
            pod_id=pod.id,
            spec=spec,
            phase=ContainerPhase.CREATED,
            handler="crun",
            boot_id="b",
            cgroup="/pod/c",
            image_id=found.id,
            image_name=found.tags[0],
            image_ref=found.digests[0],
            created_at=AT,
            log_path="/var/log/pods/c.log",
            resources=spec.linux.resources,
            task=Task(pid=42, pid_start=1, monitor_pid=41),
        )
        self.containers.add(container)
        return container

    async def start(self, id: str) -> None:
        container = self.get(id)
        if container.phase is not ContainerPhase.CREATED:
            raise WrongState(f"container {container.id!r} is {container.phase.value}, only a created one starts")
        self.containers.apply(container.id, phases.started, AT + 1)

    async def stop(self, id: str, timeout: float) -> None:
        self.timeouts.append(timeout)
        try:
            container = self.get(id)
        except NotFound:
            return
        self.containers.apply(container.id, phases.exited, Exit(code=137, at=AT + 2))

    async def remove(self, id: str) -> None:
        try:
            self.containers.remove(self.get(id).id)
        except NotFound:
            return

    async def exec_sync(self, id: str, command: Sequence[str], timeout: float) -> ExecResult:
        container = self._running(id)
        if not command:
            raise RopewalkError("the command is empty", kind=Kind.INVALID)
        if command[0] == "slow":
            raise RopewalkError(f"{command} in {container.id!r} took longer than {timeout} s", kind=Kind.TIMEOUT)
        return ExecResult(code=3, stdout=b"\xffout", stderr=b"err")

    async def reopen_log(self, id: str) -> None:
        self._running(id)

    async def checkpoint(self, id: str, location: str, timeout: float) -> None:
        self.archives.append((self._running(id).id, location, timeout))

    async def update(self, id: str, resources: LinuxContainerResources) -> None:
        self.containers.apply(self.get(id).id, phases.resized, resources)

    def _running(self, id: str) -> Container:
        container = self.get(id)
        if container.phase is not ContainerPhase.RUNNING:
            raise WrongState(f"container {container.id!r} is {container.phase.value}, not running")
        return container


class FakeStats:
    """One counter has a value, others are unknown."""

    def __init__(self, sandboxes: FakeSandboxes, containers: FakeContainers) -> None:
        self._sandboxes = sandboxes
        self._containers = containers

    async def container(self, id: str) -> ContainerStats:
        return (await self.containers([id]))[0]

    async def containers(self, ids: Iterable[str]) -> list[ContainerStats]:
        counted = CgroupStats(cpu_usage_ns=7, memory_limit=100, memory_working_set=40)
        return [
            ContainerStats(
                container=c,
                at=AT,
                cgroup=counted if c.phase is ContainerPhase.RUNNING else None,
                usage_nano_cores=None,
                writable=Usage(bytes=10, inodes=2),
                mountpoint="/data",
            )
            for c in map(self._containers.get, ids)
        ]

    async def pods(self, ids: Iterable[str]) -> list[PodStats]:
        interfaces = [InterfaceStats("eth0", 1, 2, 3, 4), InterfaceStats("eth1", 5, 6, 7, 8)]
        return [
            PodStats(
                pod=self._sandboxes.get(id),
                at=AT,
                cgroup=CgroupStats(pids=5),
                usage_nano_cores=9,
                interfaces=interfaces,
                containers=await self.containers(c.id for c in self._containers.list() if c.pod_id == id),
            )
            for id in ids
        ]


class FakePuller:
    """Every image exists, except those that say why not."""

    def __init__(self, images: store.Images) -> None:
        self._images = images
        self.auth: AuthConfig | None = None

    async def pull(self, name: str, auth: AuthConfig | None) -> str:
        self.auth = auth
        if "denied" in name:
            raise RopewalkError(f"the registry refused {name}", kind=Kind.DENIED)
        return self._images.record(replace(image(), names={name: "sha256:" + "2" * 64})).id


class FakeNetwork:
    def __init__(self) -> None:
        self.cidr = ""
        self.state = (True, "", "")

    def set_pod_cidr(self, cidr: str) -> None:
        self.cidr = cidr

    def condition(self) -> tuple[bool, str, str]:
        return self.state

    def info(self) -> dict[str, str]:
        return {"cniconfig": "{}"}


class FakeCgroups:
    """A layout that is fine, or has a problem."""

    def __init__(self) -> None:
        self.trouble = ""
        self.driver = "cgroupfs"

    def problem(self) -> str:
        return self.trouble


def totals() -> Totals:
    return Totals(images=Usage(bytes=100, inodes=10), containers=Usage(bytes=20, inodes=2))


def database(directory: Path) -> Database:
    return Database(str(directory / "state.db"))
