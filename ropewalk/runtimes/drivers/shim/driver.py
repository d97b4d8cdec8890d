"""The driver of shims: everything of a Handler but its name, its settings and its probe.

A pod has one shim, started in the pod's bundle when the pod is made, and its containers are made on it: no container
is needed to hold the pod where the shim needs none. A shim that serves one container only gets one more for each. By
`served.json` in every bundle the next daemon finds them again.

Where the boundary is namespaces, the container's processes are this kernel's: signals, limits and counters go to them
directly, and the shim is asked only where it alone knows how. Behind any other boundary everything goes by the shim.

A shim may die, hang, or be killed with its daemon at any point. Dead: its containers are ended by their cgroups, the
program's verb `delete` removes what the runtime made, and that is told as their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any

from msgspec import Struct

from ropewalk import ids, steps
from ropewalk.errors import Kind, NotFound, RopewalkError, Unsupported, WrongState
from ropewalk.linux import cgroup_systemd, process
from ropewalk.linux.cgroup import CgroupStats
from ropewalk.runtimes import handler
from ropewalk.runtimes.drivers import bundle, command, idmap, init, oci
from ropewalk.runtimes.drivers.shim import (
    binary,
    connections,
    events,
    exits,
    inside,
    metrics,
    options,
    record,
    removal,
    stdio,
    streams,
    task,
)
from ropewalk.runtimes.handler import (
    Boundary,
    ContainerPlan,
    ExecResult,
    Exit,
    Node,
    Observation,
    PodPlan,
    Task,
)
from ropewalk.runtimes.monitors import logfile
from ropewalk.runtimes.oci import scope
from ropewalk.runtimes.streams import Streams
from ropewalk.spec.pod import LinuxContainerResources, NamespaceMode
from ropewalk.storage import snapshotter
from ropewalk.wire.pb import shim_pb2 as pb

NAMESPACE = "k8s.io"  # containerd's word for the CRI's clients; some shims know it
MACHINE_SECONDS = 60.0  # for a probe that boots one: Kata itself gives up after 45 s, and says why

log = logging.getLogger(__name__)


class Settings(Struct, frozen=True):
    """What a handler's section says, decided. `options`: a serialised Any."""

    program: str
    logger: str
    init: str
    boundary: Boundary
    engine: str = ""  # the OCI runtime below it
    file: str = ""  # of its configuration
    options: bytes = b""
    sandbox: str = "none"  # "none", "task", "api"; "auto": api, else task
    hand_over: bool = False  # the root file system's mounts go to the shim, not mounted
    env: dict[str, str] = {}


class Driver(handler.Handler):
    """See the module's essay."""

    def __init__(self, config: handler.Config, node: Node, settings: Settings, *, name: str = "") -> None:
        super().__init__(config, node, name=name)
        self.settings = settings
        self.cgroups = node.cgroups
        self.containers = os.path.join(node.state, "containers")
        self.root = os.path.join(node.state, "runtimes", NAMESPACE)  # of the OCI runtime below runc's shim
        directory = os.path.join(node.state, "shims")
        for path in (self.containers, os.path.dirname(self.root), directory):
            os.makedirs(path, mode=0o711, exist_ok=True)
        self.apart = bundle.is_propagating(self.containers)
        self.events = events.Events(os.path.join(directory, f"{self.name}.sock"))
        place = binary.Place(NAMESPACE, self.events.path, self.events.path, directory)
        self.binary = binary.Binary(settings.program, place, env=settings.env)
        self.connections = connections.Connections(NAMESPACE)
        self.background = inside.Background()
        self.removal = removal.Removal(self)
        self.exits = exits.Exits(self)
        self.creating: dict[str, asyncio.Task[int]] = {}
        self.loggers = stdio.Loggers(settings.logger, node.cgroups)
        self.probing: set[str] = set()  # ids of probes under way, which no row owns
        if settings.boundary is Boundary.VIRTUAL_MACHINE:
            self.probe_seconds = MACHINE_SECONDS
        found = (binary.file_name(settings.program), settings.logger, settings.init, settings.engine, settings.file)
        self.programs = tuple(path for path in found if path)

    def bundle(self, id: str) -> record.Bundle:
        return record.Bundle(os.path.join(self.containers, id))

    @property
    def direct(self) -> bool:
        """Whether the containers' processes are this kernel's."""
        return self.settings.boundary is Boundary.NAMESPACES

    async def prepare(self) -> None:
        """Shims of an earlier daemon have events for us."""
        await self.events.start()

    async def close(self) -> None:
        self.loggers.close()
        await self.background.close()
        await self.connections.close()
        await self.events.close()

    # Shims

    async def _launch(
        self, own: record.Bundle, owner: str, cgroup: str, of_pod: record.Served | None = None
    ) -> tuple[task.Shim, record.Served]:
        """Start the shim of this bundle, or learn which one serves it already, and greet it. `of_pod`: the pod's. Where
        that is the one, the record says so from the first: whose record names a container as its owner dies with it."""
        await self.events.start()
        messages = self.connections.listen(own, owner)
        launch = binary.Launch(owner, own.directory, self.settings.options, cgroup)
        try:
            endpoint = await self.binary.start(launch, self.cgroups)
            steps.checkpoint("shim:started")
            shim = await self.connections.get(endpoint, owner)
            shim.pid = shim.pid or self.binary.running(owner)
        except task.Gone as error:
            raise self.gone(owner, f"{error}; it said {messages.last()!r}") from error
        except binary.StartFailed as error:
            if said := messages.last():
                error.add_note(f"the shim's log: {said}")
            raise
        served = record.Served(owner, endpoint, connections.identify(shim))
        if of_pod is not None and served.shim == of_pod.shim:
            self.connections.unlisten(owner)
            served = of_pod
        elif cgroup and shim.pid not in self.cgroups.processes(cgroup):
            binary.put(self.cgroups, cgroup, shim.pid)
        own.write_served(served)
        steps.checkpoint("shim:known")
        return shim, served

    async def _join(self, plan: ContainerPlan, own: record.Bundle) -> task.Shim:
        """The pod's shim if it serves several containers, else one of the container's own."""
        of_pod = self.bundle(plan.pod_id).read_served()
        if of_pod is None:
            return (await self._launch(own, plan.id, plan.monitor_cgroup))[0]
        try:
            shim = await self.connections.get(of_pod.endpoint, plan.pod_id, of_pod.shim.pid)
        except task.Gone as error:
            raise self.gone(plan.pod_id, str(error)) from error
        known = self.binary.known()
        groups = known.groups if known is not None else None
        if groups or (groups is None and of_pod.endpoint.version >= binary.NEWEST):
            own.write_served(of_pod)
            return shim
        shim, served = await self._launch(own, plan.id, plan.monitor_cgroup, of_pod)
        if groups is None:
            self.binary.learn(groups=served.endpoint.address == of_pod.endpoint.address)
        return shim

    def gone(self, id: str, why: str) -> RopewalkError:
        text = f"container {ids.short(id)}: its shim is gone: {why}"
        return RopewalkError(text, hint="the pod must be made anew", kind=Kind.UNAVAILABLE)

    async def reach(self, own: record.Bundle, id: str) -> task.Shim:
        """The shim of a bundle. Gone if it is dead, or never was."""
        await self.events.start()
        served = own.read_served()
        if served is None:
            raise task.Gone("it was never started")
        if not process.is_alive(served.shim.pid, served.shim.start):
            await self.connections.drop(served.endpoint, served.owner)
            raise task.Gone(f"process {served.shim.pid} has ended")
        shim = await self.connections.get(served.endpoint, id, served.shim.pid)
        if os.path.isdir(self.bundle(served.owner).directory):
            self.connections.listen(self.bundle(served.owner), served.owner)
        return shim

    @contextlib.asynccontextmanager
    async def _asking(self, id: str) -> Any:
        """The shim, and its end as an error of the call's. What it refuses for a container that has ended meanwhile
        it may not know any more: the caller's container is there, and in the wrong state."""
        own = self.bundle(id)
        try:
            yield await self.reach(own, id)
        except task.Gone as error:
            raise self.gone(id, str(error)) from error
        except RopewalkError as error:
            if error.kind in (Kind.INTERNAL, Kind.NOT_FOUND) and own.read_ended() is not None:
                raise WrongState(f"container {ids.short(id)} has ended: {error.message}") from error
            raise

    # Pods

    async def create_pod(self, plan: PodPlan) -> Task | None:
        """The shim, and in it what the settings say that it needs before a container: nothing, a container that waits,
        or a sandbox. A shared PID namespace needs the container in any case."""
        waits = plan.pod.namespaces.pid is NamespaceMode.POD
        return await self.run_pod(
            plan, self.settings.sandbox if self.settings.sandbox != "none" or not waits else "task"
        )

    async def run_init(self, plan: PodPlan) -> Task:
        """A pod with something in it, whatever the settings say: what a probe runs."""
        return await self.run_pod(plan, "task" if self.settings.sandbox == "none" else self.settings.sandbox)

    async def run_pod(self, plan: PodPlan, sandbox: str) -> Task:
        own = self.bundle(plan.id)
        with oci.explained(plan.id):
            own.make(bundle.Record(runtime=self.name, cgroup=plan.cgroup))
            steps.checkpoint("bundle:made")
            rootfs = init.ensure_rootfs(self.node.state, self.settings.init) if sandbox != "none" else ""
            spec = plan.spec
            if not self.direct:  # its UTS namespace is the guest's, which has its name of this
                spec = {**spec, "hostname": plan.pod.hostname or os.uname().nodename}
            spec = scope.place(spec, plan.cgroup)
            own.write(oci.encode(spec, rootfs if not self.settings.hand_over else "rootfs"))
            steps.checkpoint("bundle:written")
            shim, served = await self._launch(own, plan.id, plan.monitor_cgroup)
            pid = await self._make_sandbox(plan, shim, own, sandbox, rootfs)
            steps.checkpoint("sandbox:running")
            made = self._task(plan.id, pid or served.shim.pid, served)
            own.write_task(made)
        return made

    def _task(self, id: str, pid: int, served: record.Served) -> Task:
        """`pid`: what the shim names as the process of a container or pod."""
        if not connections.is_plausible(pid):
            raise RopewalkError(
                f"container {ids.short(id)}: its shim says that it is process {pid}",
                hint="the shim must tell processes by the node's numbers: it must not be in a PID namespace of its own",
            )
        return Task(pid, process.start_time(pid) or 0, served.shim.pid, served.shim.start)

    async def _make_sandbox(self, plan: PodPlan, shim: task.Shim, own: record.Bundle, sandbox: str, rootfs: str) -> int:
        """The pid that the shim names for it, 0 for none."""
        if sandbox == "none":
            return 0
        one = snapshotter.Mount("bind", source=rootfs, options=["rbind", "ro"])
        mounts = task.build_mounts([one]) if self.settings.hand_over else []
        own_options = options.place(self.settings.options, plan.cgroup)
        try:
            if sandbox in ("api", "auto"):
                with contextlib.suppress(Unsupported) if sandbox == "auto" else contextlib.nullcontext():
                    return await self._make_by_api(plan, shim, own, mounts, own_options)
            request = pb.CreateTaskRequest(id=plan.id, bundle=own.directory, rootfs=mounts, options=own_options)
            await self._create(shim, request)
            steps.checkpoint("sandbox:created")
            return await shim.start(plan.id)
        except task.Gone as error:
            raise self.gone(plan.id, str(error)) from error

    async def _make_by_api(
        self, plan: PodPlan, shim: task.Shim, own: record.Bundle, mounts: list[pb.Mount], own_options: pb.Any
    ) -> int:
        request = pb.CreateSandboxRequest(
            sandbox_id=plan.id,
            bundle_path=own.directory,
            rootfs=mounts,
            options=own_options,
            netns_path=plan.netns,
            annotations=plan.spec.get("annotations", {}),
        )
        await shim.create_sandbox(request)
        steps.checkpoint("sandbox:created")
        return await shim.start_sandbox(plan.id)

    async def _create(self, shim: task.Shim, request: pb.CreateTaskRequest) -> int:
        """Create. ttrpc cannot take a request back, so one whose caller has left goes on, and removal waits for it."""
        creating = asyncio.ensure_future(shim.create(request))
        creating.add_done_callback(lambda done: done.cancelled() or done.exception())  # read once: nobody else may
        self.creating[request.id] = creating
        try:
            return await asyncio.shield(creating)
        finally:
            if creating.done():
                del self.creating[request.id]

    async def delete_pod(self, id: str, cgroup: str) -> None:
        if os.path.lexists(self.bundle(id).directory):
            await self.removal.remove_pod(id, cgroup)

    # Containers

    async def create(self, plan: ContainerPlan) -> Task:
        self.cgroups.expect_move()
        own = self.bundle(plan.id)
        with oci.explained(plan.id):
            own.make(bundle.Record(runtime=self.name, cgroup=plan.cgroup, log_path=plan.log_path))
            steps.checkpoint("bundle:made")
            spec = plan.spec
            if not self.settings.hand_over:
                own.mount(
                    plan.rootfs, apart=self.apart, userns=plan.userns, label=plan.spec["linux"].get("mountLabel", "")
                )
                bundle.check_rootfs(own.rootfs)
                spec = idmap.mount_volumes(spec, own.path("volumes"), plan.userns)
            steps.checkpoint("bundle:mounted")
            if plan.log_path:
                logfile.prepare(plan.log_path)
            spec = scope.place(spec, plan.cgroup)
            own.write(oci.encode(spec, own.rootfs if not self.settings.hand_over else "rootfs"))
            steps.checkpoint("bundle:written")
            self.events.follow(plan.id)
            paths = stdio.prepare(own, tty=plan.tty, stdin=plan.stdin, once=plan.stdin_once)
            logger = self.loggers.start(plan.id, own, paths, plan.log_path, plan.monitor_cgroup)
            steps.checkpoint("logger:started")
            shim = await self._join(plan, own)
            pid = await self._create_task(plan, own, shim, logger.paths)
            await logger.ready()
            steps.checkpoint("shim:created")
            served = own.read_served()
            assert served is not None
            made = self._task(plan.id, pid if self.direct else pid or served.shim.pid, served)
            own.write_task(made)
        return made

    async def _create_task(self, plan: ContainerPlan, own: record.Bundle, shim: task.Shim, paths: stdio.Paths) -> int:
        request = pb.CreateTaskRequest(
            id=plan.id,
            bundle=own.directory,
            rootfs=task.build_mounts(plan.rootfs) if self.settings.hand_over else [],
            terminal=plan.tty,
            stdin=paths.stdin,
            stdout=paths.stdout,
            stderr=paths.stderr,
            options=options.place(self.settings.options, plan.cgroup),
        )
        steps.checkpoint("shim:creating")
        try:
            return await self._create(shim, request)
        except task.Gone as error:
            raise self.gone(plan.id, f"it ended while it created the container: {error}") from error

    async def start(self, id: str, task: Task) -> None:
        self.loggers.ensure(id, self.bundle(id))
        try:
            async with self._asking(id) as shim:
                await shim.start(id)
        finally:
            self.loggers.release(id)

    async def signal(self, id: str, task: Task, signum: int) -> None:
        """Kind.DENIED if the container's AppArmor profile does not let this daemon's signals in (drivers/oci.py)."""
        if not self.direct:
            await self._kill(id, signum, everything=False)
            return
        try:
            process.send(task.pid, task.pid_start, signum)
        except PermissionError:
            if signum != signal.SIGKILL:
                text = f"container {ids.short(id)}: its AppArmor profile does not let signal {signum} in"
                raise RopewalkError(text, hint=command.SIGNAL_RULE, kind=Kind.DENIED) from None
            await self.cgroups.kill(self.bundle(id).read_record().cgroup)

    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        """The logger of one that was never started sees its end only when we let go of the fifos."""
        self.loggers.release(id)
        if self.direct:
            removal.end_process(task)
        else:
            await self._kill(id, signal.SIGKILL, everything=True)
        if cgroup and self.cgroups.exists(cgroup):
            await self.cgroups.kill(cgroup)

    async def _kill(self, id: str, signum: int, *, everything: bool) -> None:
        """By the shim. What is not there, or has ended, is none of its refusals that we know by code. Where only a shim
        that hangs could end a container, SIGKILL is its own."""
        own = self.bundle(id)
        if own.read_ended() is not None:
            return
        try:
            shim = await self.reach(own, id)
            try:
                await shim.kill(id, signum, everything=everything)
            except RopewalkError as error:
                if error.kind is Kind.TIMEOUT or (await shim.state(id)).status != pb.STOPPED:
                    raise
        except NotFound:
            return
        except (task.Gone, RopewalkError) as error:
            silent = isinstance(error, task.Gone) or error.kind is Kind.TIMEOUT
            if silent and signum == signal.SIGKILL and self.removal.is_alive(own):
                await self.removal.end_hanging(own)
            elif isinstance(error, RopewalkError):
                raise

    # Watching

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        return await self.exits.wait(id, task, cgroup)

    async def observe(self, id: str, task: Task) -> Observation:
        return await self.exits.observe(id, task)

    # Working inside

    def _inside(self, shim: task.Shim, id: str) -> inside.Inside:
        own = self.bundle(id)
        return inside.Inside(shim, own, id, own.read_record().cgroup if self.direct else "")

    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        async with self._asking(id) as shim:
            place = self._inside(shim, id)
            return await inside.run(place, process, self.cgroups, self.background, timeout=timeout, limit=limit)

    async def exec_stream(self, id: str, task: Task, process: dict[str, Any], *, tty: bool) -> Streams:
        async with self._asking(id) as shim:
            return await streams.open_exec(inside.Command(self._inside(shim, id), process, self.cgroups), tty=tty)

    async def attach(self, id: str, task: Task) -> Streams:
        async def exit() -> int:
            return (await self.wait(id, task, self.bundle(id).read_record().cgroup)).code

        async with self._asking(id) as shim:
            return streams.AttachStreams(self._inside(shim, id), exit)

    async def stats(self, id: str, task: Task) -> CgroupStats | None:
        if self.direct:
            return None
        async with self._asking(id) as shim:
            return metrics.read(await shim.stats(id))

    def spec(self, id: str) -> dict[str, Any]:
        return self.bundle(id).read_config()

    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None:
        if self.direct:
            path = self.bundle(id).read_record().cgroup
            with oci.explained(id):
                self.cgroups.update(path, resources)
            if cgroup_systemd.is_scope(path):
                await cgroup_systemd.set_properties(path, resources)
            return
        async with self._asking(id) as shim:
            await shim.update(id, options.build_resources(linux_resources(resources)))

    async def reopen_log(self, id: str, task: Task) -> None:
        own = self.bundle(id)
        path = own.read_record().log_path
        logger = own.read_logger()
        if own.read_ended() is not None or not process.is_alive(task.pid, task.pid_start):
            raise WrongState(f"container {ids.short(id)} is not running: its log cannot be reopened")
        if path and logger is not None:
            with oci.explained(id):
                await logfile.reopen(path, writer=logger.pid, started=logger.start, control=own.path("ctl"))

    # Undoing

    async def delete(self, id: str, cgroup: str) -> None:
        await self.removal.remove(id, cgroup)

    @property
    def probe_prefix(self) -> str:
        return f"{handler.PROBE}{self.name}-"

    def probe_cgroup(self, id: str) -> str:
        return f"{self.node.cgroup}/{id}"

    async def sweep(self, owned: set[str]) -> list[str]:
        return await self.removal.sweep(owned)


def linux_resources(resources: LinuxContainerResources) -> dict[str, Any]:
    """linux.resources of what is set; zero means "not set" (contract 6.10)."""
    cpu = {
        "shares": resources.cpu_shares,
        "quota": resources.cpu_quota,
        "period": resources.cpu_period,
        "cpus": resources.cpuset_cpus,
        "mems": resources.cpuset_mems,
    }
    memory = {"limit": resources.memory_limit_in_bytes, "swap": resources.memory_swap_limit_in_bytes}
    sections: dict[str, dict[str, Any]] = {"cpu": cpu, "memory": memory, "unified": dict(resources.unified)}
    built = {name: {key: value for key, value in section.items() if value} for name, section in sections.items()}
    return {name: section for name, section in built.items() if section}
