"""The driver of gVisor's runsc: one Sentry, a kernel in user space, for each pod, and the pod's containers in it.

The pod's own container makes the Sentry: `runsc create` forks it, and a gofer that opens files for it, `start` gives it
the network and runs an init in it. Later containers join by the annotation sandbox-id: their `create` only tells the
Sentry, their `start` hands over the standard streams and forks another gofer. So a monitor runs create, start and
`wait`, which is the only one that tells an exit code. All processes are in the cgroup of the pod's own container.

A container's Task has the Sentry's pid, therefore nothing here signals a task's process: only the Sentry knows its
processes, and it is asked by `runsc kill`. When the Sentry has died, all its containers have, and their state is plain
files: <root>/<id>_sandbox:<pod>.{state,lock}.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from ropewalk import ids, steps
from ropewalk.errors import Invalid, Kind, RopewalkError, Unsupported, WrongState
from ropewalk.linux import cgroup, mount, paths, process
from ropewalk.runtimes import handler, streams
from ropewalk.runtimes.drivers import bundle, command, init, oci
from ropewalk.runtimes.drivers.runsc import checkpoints, forward, inside, sentry
from ropewalk.runtimes.drivers.runsc import spec as specs
from ropewalk.runtimes.handler import (
    Capabilities,
    ContainerPlan,
    ExecResult,
    Exit,
    Observation,
    PodPlan,
    Probe,
    Task,
)
from ropewalk.runtimes.monitors import monitor
from ropewalk.runtimes.monitors import own as own_monitor
from ropewalk.runtimes.oci import scope
from ropewalk.spec.pod import LinuxContainerResources, PodSpec

log = logging.getLogger(__name__)

VERB_SECONDS = 20.0
KILLED = 137
SYSCTLS = "/proc/sys/net"

# What runsc says of a container that has ended, or was never started, when it is to be signalled.
GONE = ("no such process", "is not running", "does not exist", "connection refused", "in state stopped")
NEVER_STARTED = "in state created"


class Facts(Struct, frozen=True):
    """What a probe found out about a build on this kernel. `private_sysctls`: it takes every network namespace for the
    node's, because it looks for net.core.rmem_default, which Linux 6.11 shows in all of them (gvisor issue 10704): so
    it must not see them. `checkpoint`: a pod can be written while it runs, and restored."""

    platform: str = ""
    private_sysctls: bool = False
    port_forward: bool = False
    checkpoint: bool = False


def read_facts(kept: Mapping[str, str]) -> Facts:
    """Of Probe.facts."""
    return msgspec.convert(kept, Facts, strict=False)


def write_facts(facts: Facts) -> dict[str, str]:
    return {name: str(value).lower() for name, value in structs.asdict(facts).items()}


class Waited(Struct, frozen=True, rename="camel"):
    """What `runsc wait` prints."""

    exit_status: int


class State(Struct, frozen=True):
    """Of what `runsc state` prints."""

    status: str


class Driver(oci.Driver):
    """See the module's essay. `facts` are those of the last probe; while one tries others, no pod is made by them:
    `settled`."""

    facts = Facts()
    flags: Sequence[str] = ()  # of the configuration

    def __init__(self, config: oci.Config, node: handler.Node, *, name: str = "") -> None:
        super().__init__(config, node, name=name)
        self.settled = asyncio.Event()
        self.settled.set()

    def learn(self, facts: Facts) -> None:
        self.facts = facts
        chosen = [f"--platform={facts.platform}"] if facts.platform else []
        self.command.flags = [*chosen, *([checkpoints.FLAG] if facts.checkpoint else []), *self.flags]

    async def prepare(self) -> None:
        """A sealed copy would be 30 MB of memory, and runsc does not run itself anew for want of one."""

    def recall(self, probe: Probe, capabilities: Capabilities) -> None:
        super().recall(probe, capabilities)
        self.learn(read_facts(probe.facts))

    # Pods.

    def needs_pod(self, pod: PodSpec) -> bool:
        return True

    async def create_pod(self, plan: PodPlan) -> Task:
        while not self.settled.is_set():  # the next trial may have begun at once
            await self.settled.wait()
        task = await self.boot(plan, network="sandbox" if plan.netns else "host")
        limits = plan.pod.linux.resources
        if limits is not None:
            with oci.explained(plan.id):
                self.cgroups.update(plan.cgroup, limits)
                checkpoints.note_limits(self._bundle(plan.id), limits)
        return task

    async def run_init(self, plan: PodPlan) -> Task:
        return await self.boot(plan, network="sandbox")

    async def boot(self, plan: PodPlan, *, network: str) -> Task:
        """A Sentry with the pod's own container running in it."""
        own = self._bundle(plan.id)
        flags = [f"--network={network}", *scope.flags(plan.cgroup)]
        mounts = self._start_mounts(network)
        with oci.explained(plan.id):
            own.make(bundle.Record(runtime=self.name, cgroup=plan.cgroup))
            steps.checkpoint("bundle:made")
            spec = specs.of_pod(plan.spec, plan.pod.hostname or os.uname().nodename)
            own.write(oci.encode(scope.place(spec, plan.cgroup), init.ensure_rootfs(self.node.state, self.catatonit)))
            steps.checkpoint("sentry:written")
            verb = ("create", "--bundle", own.directory, "--pid-file", own.pid_file, plan.id)
            await self.command.run(plan.id, *verb, timeout=oci.START_SECONDS, flags=flags)
            steps.checkpoint("sentry:created")
            if self.facts.checkpoint and network == "sandbox":
                checkpoints.note_network(own, spec)
            await self.command.run(plan.id, "start", plan.id, timeout=oci.START_SECONDS, flags=flags, mounts=mounts)
            steps.checkpoint("sentry:started")
            task = own.read_init()
            own.write_task(task)
        return task

    def _start_mounts(self, network: str) -> Callable[[], None] | None:
        return hide_sysctls if self.facts.private_sysctls and network == "sandbox" else None

    async def dial(self, pod_id: str, pod: Task | None, netns: str, port: int) -> socket.socket:
        if not self.facts.port_forward:
            raise Unsupported(
                f"this build of {self.command.program} has no port-forward, and its pods' addresses are not the node's",
                hint="builds since 2023 have it",
            )
        return await forward.dial(self.command, pod_id, port, self.sockets)

    # Containers.

    async def create(self, plan: ContainerPlan) -> Task:
        return await super().create(structs.replace(plan, spec=specs.of_container(plan.spec, plan.pod_id)))

    def adapt(self, spec: dict[str, Any]) -> dict[str, Any]:
        """A cgroup of its own would stay empty: what works for it is in the pod's."""
        return {**spec, "linux": {name: value for name, value in spec["linux"].items() if name != "cgroupsPath"}}

    def created(self, plan: ContainerPlan | PodPlan, given: dict[str, Any]) -> None:
        if isinstance(plan, ContainerPlan) and plan.checkpoint:
            paths.write_atomic(self._bundle(plan.id).path(checkpoints.RESTORED), b"", 0o600)

    def launch(self, plan: ContainerPlan, own: bundle.Bundle) -> monitor.Launch:
        """The Sentry gets the streams at `start`, and knows the exit code."""
        argv = self.command.prefix(own.log)
        asked = super().launch(plan, own)
        start = ["start", plan.id]
        if plan.checkpoint:
            start = ["restore", "--detach", "--bundle", own.directory, "--image-path", plan.checkpoint, plan.id]
        return structs.replace(asked, runtime=argv, start_argv=[*argv, *start], wait_argv=[*argv, "wait", plan.id])

    async def start(self, id: str, task: Task) -> None:
        own = self._bundle(id)
        if self.monitor.exit(id) is not None:
            raise WrongState(f"container {ids.short(id)} has ended: it cannot be started again")
        try:
            await self.monitor.start(own.directory, task)
        except monitor.RuntimeFailed as error:
            raise command.failure(id, "start", own.read_error() or oci.first_line(str(error))) from None
        if os.path.exists(own.path(checkpoints.RESTORED)):
            await self._require_whole(id)

    async def _require_whole(self, id: str) -> None:
        """`restore` returns as if all were well while a Sentry waits for more containers. Nothing can live in that."""
        if not await checkpoints.is_whole(self.command, self._pod(id)):
            await self.cgroups.kill(self._pod_cgroup(id))
            raise Invalid(f"container {ids.short(id)}: it was saved together with others, and does not go on alone")
        with contextlib.suppress(FileNotFoundError):  # it is asked once, also by the next daemon
            os.unlink(self._bundle(id).path(checkpoints.RESTORED))

    async def signal(self, id: str, task: Task, signum: int) -> None:
        if process.is_alive(task.pid, task.pid_start):
            await (self._end(id) if signum == signal.SIGKILL else self._send(id, str(signum)))

    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        """One that was never started has no process, and runsc signals none; its monitor is what ends it."""
        alive = process.is_alive(task.pid, task.pid_start)
        if alive and await self._end(id, everything=True):
            return
        if own_monitor.was_started(self._bundle(id).directory):
            return  # it ended with the Sentry
        if self.monitor.exit(id) is None:
            self.monitor.record(id, KILLED)  # before its monitor's end: whoever waits for that looks here next
        process.send(task.monitor_pid, task.monitor_start, signal.SIGTERM)
        await process.end(task.monitor_pid, task.monitor_start, grace=oci.FLUSH_SECONDS)

    async def _send(self, id: str, signum: str, *, everything: bool = False) -> bool:
        """False if the container was never started."""
        try:
            await self.command.run(id, "kill", *(["--all"] if everything else []), id, signum, timeout=VERB_SECONDS)
        except RopewalkError as error:
            if NEVER_STARTED in error.message:
                return False
            if not any(words in error.message for words in GONE):
                raise
        return True

    async def _end(self, id: str, *, everything: bool = False) -> bool:
        """SIGKILL, as `_send`. Where only a Sentry that hangs could end a container that lives, it is the Sentry's."""
        try:
            return await self._send(id, "KILL", everything=everything)
        except RopewalkError as error:
            path = self._pod_cgroup(id)
            if error.kind is not Kind.TIMEOUT or self.monitor.exit(id) is not None or not path:
                raise
            log.warning("a Sentry that hangs is killed", extra={"id": self._pod(id), "cgroup": path})
            await self.cgroups.kill(path)
            return True

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        """The monitor's record; where there is none because the monitor was killed, runsc still knows, as long as the
        Sentry lives. An OOM kill ends the Sentry, and every container with it."""
        if task.monitor_pid:
            await process.ended(task.monitor_pid, task.monitor_start)
        seen = self.monitor.exit(id) or await self._ask_exit(id, task)
        if seen.code == KILLED and (self.cgroups.oom_kills(self._pod_cgroup(id)) or 0) > 0:
            return structs.replace(seen, oom=True)
        return seen

    async def _ask_exit(self, id: str, task: Task) -> Exit:
        try:
            answer = await self.command.ask(id, "wait", id, timeout=0)
            return Exit(code=msgspec.json.decode(answer, type=Waited).exit_status, at=time.time_ns())
        except (RopewalkError, msgspec.MsgspecError) as error:
            if await self._status(id) == "running":  # it was killed, say: the Sentry will tell who asks again
                raise
            text = f"nobody saw container {ids.short(id)} end: its monitor was killed, and then: {error}"
            return Exit(code=oci.LOST, at=time.time_ns(), reason="Unknown", message=text)

    def _pod(self, id: str) -> str:
        """The pod of a container; a pod's own."""
        return self._bundle(id).read_record().pod or id

    def _pod_cgroup(self, id: str) -> str:
        return self._bundle(self._pod(id)).read_record().cgroup

    async def observe(self, id: str, task: Task) -> Observation:
        """One without a monitor goes on as long as the Sentry knows it: `wait` will tell how it ends. A daemon killed
        between a restore and the look at what came of it leaves that look to the next one."""
        own = self._bundle(id)
        if os.path.exists(own.path(checkpoints.RESTORED)) and own_monitor.was_started(own.directory):
            try:
                await self._require_whole(id)
            except RopewalkError as error:
                log.warning("what was restored does not run", extra={"id": id, "error": str(error)})
        exit = self.monitor.exit(id)
        watched = process.is_alive(task.monitor_pid, task.monitor_start)
        started = own_monitor.was_started(own.directory)
        if watched or exit is not None or not process.is_alive(task.pid, task.pid_start):
            return Observation(alive=watched and exit is None, exit=exit, started=started)
        status = await self._status(id)
        return Observation(alive=bool(status), started=started or status not in ("", "creating", "created"))

    async def _status(self, id: str) -> str:
        """ "" if runsc does not know it."""
        try:
            answer = await self.command.ask(id, "state", id, timeout=VERB_SECONDS)
            return msgspec.json.decode(answer, type=State).status
        except (RopewalkError, msgspec.MsgspecError):
            return ""

    # Working inside

    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        return await inside.run(self.command, id, process, timeout=timeout, limit=limit)

    async def exec_stream(self, id: str, task: Task, process: dict[str, Any], *, tty: bool) -> streams.Streams:
        own = self._bundle(id)
        name = f"exec-{secrets.token_hex(4)}"
        return await inside.start(
            self.command,
            id,
            {**process, "terminal": tty},
            pid_file=own.path(f"{name}.pid"),
            inner_file=own.path(f"{name}.inner"),
            console=os.path.join(self.sockets, name),
        )

    async def stats(self, id: str, task: Task) -> cgroup.CgroupStats | None:
        """The Sentry's own accounts. CPU time is the container's part of what the pod's cgroup counted, as in `runsc
        events`: the Sentry's work and the gofers' is spread over the containers."""
        pod = self._pod(id)
        found = await sentry.event(self.root, pod, id)
        if found is None:
            return None
        total = sum(found.container_usage.values())
        whole = self.cgroups.stats(self._pod_cgroup(id))
        counted = whole.cpu_usage_ns if whole is not None else None
        used = found.container_usage.get(id, 0)
        data = found.event.data
        return cgroup.CgroupStats(
            cpu_usage_ns=used if counted is None or not total else counted * used // total,
            memory_usage=data.memory.usage.usage,
            memory_working_set=data.memory.usage.usage,
            pids=data.pids.current,
        )

    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None:
        raise Unsupported(
            f"container {ids.short(id)}: gVisor enforces the limits of the pod only", hint="change those of the pod"
        )

    async def checkpoint(self, id: str, task: Task, directory: str) -> None:
        """Containers that have ended would be waited for at a restore, so the Sentry forgets them; how they ended is
        known by then. It refuses to forget one that lives."""
        pod = self._pod(id)
        for other in self._members(pod) - {id, pod}:
            await self.command.run(other, "delete", other, timeout=oci.DELETE_SECONDS)
        await checkpoints.save(self.command, pod, directory)

    async def restore_pod(self, id: str, directory: str) -> Task:
        """Of a pod with a network of its own, which is what refusals.py lets through."""
        own = self._bundle(id)
        flags = ["--network=sandbox", *scope.flags(own.read_record().cgroup)]
        return await checkpoints.replace(
            self.command,
            self.cgroups,
            own,
            id,
            directory,
            flags=flags,
            mounts=self._start_mounts("sandbox"),
            forget=self._forget_all,
        )

    async def _forget_all(self, pod_id: str) -> None:
        """Of a pod whose Sentry is dead."""
        for id in self._members(pod_id):
            await self._remove_state(id)

    def _members(self, pod_id: str) -> set[str]:
        """Ids that runsc has state of in this pod; its own is among them."""
        return {
            os.path.basename(path).partition("_")[0]
            for path in glob.glob(f"{glob.escape(self.root)}/*_sandbox:{pod_id}.state")
        }

    # Undoing

    async def _clear(self, own: bundle.Bundle, id: str, path: str, task: Task | None) -> None:
        record = own.read_record()
        if not record.pod:  # a pod, or a create that did not come so far
            await super()._clear(own, id, path, task)
            return
        if task is not None and not own_monitor.was_started(own.directory):
            process.send(task.monitor_pid, task.monitor_start, signal.SIGTERM)  # it has nothing to wait for
        elif self._is_sentry_alive(record.pod):
            with contextlib.suppress(RopewalkError):
                await self._send(id, "KILL", everything=True)
        if task is not None and task.monitor_pid:
            await process.end(task.monitor_pid, task.monitor_start, grace=oci.FLUSH_SECONDS)
        await self._remove_state(id)
        if path:
            await self.cgroups.remove(path)
        self.monitor.forget(id)
        own.remove()

    def _is_sentry_alive(self, pod_id: str) -> bool:
        task = self._bundle(pod_id).read_task()
        return task is not None and process.is_alive(task.pid, task.pid_start)

    async def _remove_state(self, id: str) -> None:
        """The Sentry forgets a container at `delete`; without a Sentry there are only files."""
        pattern = f"{glob.escape(self.root)}/{id}_sandbox:*"
        found = glob.glob(pattern)
        if found and self._is_sentry_alive(self._pod(id)):
            try:
                await self.command.run(id, "delete", "--force", id, timeout=oci.DELETE_SECONDS)
            except (RopewalkError, OSError) as error:
                log.warning("delete by the runtime failed", extra={"id": id, "error": str(error)})
        for path in (*glob.glob(pattern), f"{self.root}/runsc-{id}.sock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _states(self) -> list[str]:
        return sorted({name.partition("_sandbox:")[0] for name in os.listdir(self.root) if "_sandbox:" in name})


def hide_sysctls() -> None:
    """For the calling thread's mount namespace."""
    mount.set_propagation("/", "rprivate")
    mount.tmpfs(SYSCTLS)
