"""The driver of OCI command-line runtimes (crun, runc, youki): everything of a Handler but its name and its probe.

A container is a bundle (bundle.py), a monitor that ran `RUNTIME create` and stays, and the runtime's own state
directory <state>/runtimes/<handler>/<id>. Signals, waiting and killing go to processes and cgroups directly; the
runtime is asked only where it alone knows how: create, start, exec, delete.

All that a create leaves is found again from the id: its bundle and state directory by their names, creators still
at work by the bundle's path among their arguments, processes by the cgroup in plan.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ropewalk import ids, steps
from ropewalk.errors import Kind, RopewalkError, WrongState
from ropewalk.linux import cgroup_systemd, process
from ropewalk.runtimes import handler, streams
from ropewalk.runtimes.drivers import bundle, command, execution, idmap, init, interactive, unwitnessed
from ropewalk.runtimes.handler import ContainerPlan, ExecResult, Exit, Node, Observation, PodPlan, Task
from ropewalk.runtimes.monitors import attach, choice, logfile, monitor
from ropewalk.runtimes.oci import build, scope
from ropewalk.spec.pod import LinuxContainerResources, NamespaceMode, PodSpec

log = logging.getLogger(__name__)

START_SECONDS = 60.0
GONE_SECONDS = 1.0  # the runtime has this long to notice that the process is gone
DELETE_SECONDS = 20.0
FLUSH_SECONDS = 5.0  # a monitor whose container is dead has this long to write the rest of the log
CREATOR_SECONDS = 10.0
CLOCK_STEP = 0.1  # file times are those of the kernel's last tick
LOST = 255  # contract 6.1: the exit code of a container whose end nobody saw


class Config(handler.Config, frozen=True):
    """What every runtime of this driver is configured by; its handler says which program it is."""

    path: Annotated[str, Meta(description="the runtime's program, a path or a name in PATH")] = ""
    monitor: Annotated[str, Meta(description="ropewalk-monitor (which comes along), conmon, or the path of either")] = (
        "ropewalk-monitor"
    )
    init: Annotated[str, Meta(description="a static catatonit: init of pods with a shared PID namespace")] = "catatonit"


class Driver(handler.Handler):
    """See the module's essay."""

    exec_detaches = False  # without --detach its exec would wait for the ends of the streams

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        super().__init__(config, node, name=name)
        self.cgroups = node.cgroups
        self.catatonit = config.init
        self.containers = os.path.join(node.state, "containers")
        self.root = os.path.join(node.state, "runtimes", self.name)
        exits = os.path.join(node.state, "exits")
        self.sockets = os.path.join(node.state, "consoles")
        for directory in (self.containers, os.path.dirname(self.root), self.root, exits, self.sockets):
            os.makedirs(directory, mode=0o711, exist_ok=True)
        self.apart = bundle.is_propagating(self.containers)
        self.command = command.Command(config.path, self.root)
        self.monitor = choice.make(config.monitor, exits=exits, sockets=self.sockets, cgroups=self.cgroups)
        self.programs = (config.path, self.monitor.path, config.init)
        self.probing: set[str] = set()  # ids of probes under way, which no row owns
        self.began = time.time()

    def _bundle(self, id: str) -> bundle.Bundle:
        return bundle.Bundle(os.path.join(self.containers, id))

    async def prepare(self) -> None:
        await self.command.seal(os.path.join(self.node.state, "programs", self.name))

    # Making

    async def create(self, plan: ContainerPlan) -> Task:
        self.cgroups.expect_move()
        own = self._bundle(plan.id)
        with explained(plan.id):
            record = bundle.Record(runtime=self.name, pod=plan.pod_id, cgroup=plan.cgroup, log_path=plan.log_path)
            own.make(msgspec.structs.replace(record, pod_ooms=self._pod_ooms(plan.cgroup)))
            steps.checkpoint("bundle:made")
            own.mount(plan.rootfs, apart=self.apart, userns=plan.userns, label=plan.spec["linux"].get("mountLabel", ""))
            bundle.check_rootfs(own.rootfs)
            spec = idmap.mount_volumes(plan.spec, own.path("volumes"), plan.userns)
            steps.checkpoint("bundle:mounted")
            if plan.log_path:
                logfile.prepare(plan.log_path)
            given = self.adapt(scope.place(spec, plan.cgroup))
            own.write(encode(given, own.rootfs))
            steps.checkpoint("bundle:written")
            try:
                task = await self.monitor.create(self.launch(plan, own))
            except monitor.RuntimeFailed as error:
                raise command.failure(plan.id, "create", own.read_error() or first_line(str(error))) from None
            steps.checkpoint("monitor:created")
            own.write_task(task)
            self.created(plan, given)
        return task

    def launch(self, plan: ContainerPlan, own: bundle.Bundle) -> monitor.Launch:
        """What the monitor is told."""
        return monitor.Launch(
            id=plan.id,
            bundle=own.directory,
            runtime=[*self.command.prefix(own.log), *scope.flags(plan.cgroup)],
            cgroup=plan.monitor_cgroup,
            memory_events=self._memory_events(plan.cgroup),
            log_path=plan.log_path,
            tty=plan.tty,
            stdin=plan.stdin,
            stdin_once=plan.stdin_once,
        )

    def adapt(self, spec: dict[str, Any]) -> dict[str, Any]:
        """What this runtime is given for `spec`; a handler may add what only its runtime understands."""
        return spec

    def created(self, plan: ContainerPlan | PodPlan, given: dict[str, Any]) -> None:
        """The runtime has made a container of what `adapt` gave it; a handler may learn from that."""

    def needs_pod(self, pod: PodSpec) -> bool:
        """Only a shared PID namespace needs a process: a tiny init that holds it and reaps."""
        return pod.namespaces.pid is NamespaceMode.POD

    async def create_pod(self, plan: PodPlan) -> Task | None:
        return await self.run_init(plan) if self.needs_pod(plan.pod) else None

    async def run_init(self, plan: PodPlan) -> Task:
        """The pod's own container: a built-in read-only root file system, no monitor."""
        self.cgroups.expect_move()
        own = self._bundle(plan.id)
        with explained(plan.id):
            own.make(bundle.Record(runtime=self.name, cgroup=plan.cgroup))
            steps.checkpoint("bundle:made")
            rootfs = init.ensure_rootfs(self.node.state, self.catatonit)
            if os.statvfs(rootfs).f_flag & os.ST_NOEXEC:
                rootfs = own.show(rootfs, apart=self.apart)
            given = self.adapt(scope.place(plan.spec, plan.cgroup))
            own.write(encode(given, rootfs))
            steps.checkpoint("init:written")
            verb = ("run", "--detach", "--bundle", own.directory, "--pid-file", own.pid_file, plan.id)
            await self.command.run(plan.id, *verb, timeout=START_SECONDS, flags=scope.flags(plan.cgroup))
            steps.checkpoint("init:running")
            task = own.read_init()
            own.write_task(task)
            self.created(plan, given)
        return task

    async def start(self, id: str, task: Task) -> None:
        """The runtime opens a fifo that the process reads: with the process gone it would wait for ever."""
        starting = asyncio.ensure_future(self.command.run(id, "start", id, timeout=START_SECONDS))
        dying = asyncio.ensure_future(process.ended(task.pid, task.pid_start))
        try:
            await asyncio.wait([starting, dying], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([starting], timeout=GONE_SECONDS)  # one that ends at once has been started, too
            if not starting.done():
                raise WrongState(f"container {ids.short(id)}: its process ended before it was started")
            await starting
        finally:
            starting.cancel()
            dying.cancel()
            await asyncio.gather(starting, dying, return_exceptions=True)

    # Signals

    async def signal(self, id: str, task: Task, signum: int) -> None:
        """Kind.DENIED if the container's AppArmor profile does not let this daemon's signals in; SIGKILL then goes by
        the cgroup, where the kernel asks no profile (cgroup.kill of v2)."""
        try:
            process.send(task.pid, task.pid_start, signum)
        except PermissionError:
            if signum != signal.SIGKILL:
                raise RopewalkError(
                    f"container {ids.short(id)}: its AppArmor profile does not let signal {signum} in",
                    hint=command.SIGNAL_RULE,
                    kind=Kind.DENIED,
                ) from None
            await self.cgroups.kill(self._bundle(id).read_record().cgroup)

    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        with contextlib.suppress(PermissionError):  # see signal
            process.send(task.pid, task.pid_start, signal.SIGKILL)
        if cgroup:
            await self.cgroups.kill(cgroup)

    # Watching

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        """The exit file comes before the monitor's own end. Without one the container itself is watched: its pidfd is
        held from now on, because the kernel tells its exit code only to who held it at the end."""
        pidfd = process.open_pidfd(task.pid, task.pid_start)
        try:
            if task.monitor_pid:
                await process.ended(task.monitor_pid, task.monitor_start)
            seen = self.monitor.exit(id)
            if seen is None and pidfd is not None:
                await process.wait_pidfd(pidfd)
                seen = self.monitor.exit(id)
            if seen is None:
                seen = await self._unwitnessed(id, task, pidfd)
        finally:
            if pidfd is not None:
                os.close(pidfd)
        if seen.code and cgroup and self._met_oom(id, cgroup, seen.code):
            return msgspec.structs.replace(seen, oom=True)
        return seen

    def _memory_events(self, path: str) -> str:
        """The file that tells of the OOM killer before systemd removes a scope's cgroup. Only cgroup v2 has it."""
        if self.cgroups.version != 2 or not path:
            return ""
        return os.path.join(self.cgroups.directories(path)[0], "memory.events")

    def _met_oom(self, id: str, cgroup: str, code: int) -> bool:
        """systemd removes a scope's cgroup, and its count, as soon as nothing lives in it. What the monitor read at the
        end stays. Where it read nothing (conmon, which waits for the kernel to tell of a change, once in 10 ms; a scope
        that was gone sooner), the pod's count is asked, which is of all its containers: what one end has explained, it
        does not explain again."""
        own = self._bundle(id)
        record = own.read_record()
        kills = self.cgroups.oom_kills(cgroup)
        met = kills > 0 if kills is not None else self.monitor.met_oom(own.directory)
        ooms = self._pod_ooms(cgroup)
        if met is None and code == 128 + signal.SIGKILL and ooms > record.pod_ooms:
            met = True
            with contextlib.suppress(FileNotFoundError):  # its bundle is gone already
                self.monitor.note_oom(own.directory)  # who asks again gets the same answer
        if met and record.pod and cgroup_systemd.is_scope(cgroup):
            self._explain(record.pod, ooms)
        return bool(met)

    def _explain(self, pod: str, ooms: int) -> None:
        """So many OOM kills in the pod say nothing about who of its containers ends from now on."""
        for id in os.listdir(self.containers):
            own = self._bundle(id)
            record = own.read_record()
            if record.pod == pod and record.pod_ooms < ooms:
                own.write_record(msgspec.structs.replace(record, pod_ooms=ooms))

    def _pod_ooms(self, path: str) -> int:
        """OOM kills so far in the pod of a scope; of any other cgroup nobody asks."""
        return self.cgroups.oom_kills(os.path.dirname(path)) or 0 if cgroup_systemd.is_scope(path) else 0

    async def _unwitnessed(self, id: str, task: Task, pidfd: int | None) -> Exit:
        at = time.time_ns()
        code = await unwitnessed.exit_code(pidfd) if pidfd is not None else None
        if code is not None:
            return Exit(code=code, at=at)
        why = "its monitor was killed" if task.monitor_pid else "it has no monitor"
        return Exit(code=LOST, at=at, reason="Unknown", message=f"nobody saw container {ids.short(id)} end: {why}")

    async def observe(self, id: str, task: Task) -> Observation:
        """A monitor that lives without its container is about to write the exit file: `wait` will tell."""
        await self._end_starters(id, task)
        alive = process.is_alive(task.pid, task.pid_start) or process.is_alive(task.monitor_pid, task.monitor_start)
        exit = self.monitor.exit(id)
        return Observation(alive=alive and exit is None, exit=exit, started=self.is_started(id))

    def is_started(self, id: str) -> bool:
        """crun, as runc, waits for `start` on a fifo beside its state, and removes it then."""
        return os.path.isdir(os.path.join(self.root, id)) and not os.path.lexists(self._fifo(id))

    def _fifo(self, id: str) -> str:
        return os.path.join(self.root, id, "exec.fifo")

    async def _end_starters(self, id: str, task: Task | None) -> None:
        """A killed daemon's `start` may still be at work. Without a process to be started it never ends by itself."""
        own = {b"start", os.fsencode(f"--root={self.root}")}
        for pid in process.find(os.fsencode(id)) if os.path.lexists(self._fifo(id)) else ():
            if own <= set(process.command_line(pid)):
                alive = task is not None and process.is_alive(task.pid, task.pid_start)
                await process.end(pid, process.start_time(pid) or 0, grace=GONE_SECONDS if alive else 0.0)

    # Working inside

    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        self.cgroups.expect_move()
        own = self._bundle(id)
        path = own.read_record().cgroup
        pid_file = own.path(f"exec-{secrets.token_hex(8)}.pid") if self.exec_detaches else ""
        return await execution.run(
            self.command, self.cgroups, id, path, process, timeout=timeout, limit=limit, pid_file=pid_file
        )

    async def exec_stream(self, id: str, task: Task, process: dict[str, Any], *, tty: bool) -> streams.Streams:
        self.cgroups.expect_move()
        own = self._bundle(id)
        name = f"exec-{secrets.token_hex(4)}"
        return await interactive.start_marked(
            self.command,
            self.cgroups,
            id,
            own.read_record().cgroup,
            {**process, "terminal": tty},
            pid_file=own.path(f"{name}.pid"),
            console=os.path.join(self.sockets, name),
        )

    async def attach(self, id: str, task: Task) -> streams.Streams:
        own = self._bundle(id)
        path = own.read_record().cgroup

        async def ended() -> int:
            return (await self.wait(id, task, path)).code

        with explained(id):
            return attach.Attachment(own.directory, task, ended)

    def spec(self, id: str) -> dict[str, Any]:
        return self._bundle(id).read_config()

    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None:
        """The kernel first: it says what is wrong with a value. A daemon killed in between leaves systemd with the old
        ones, and the caller without an answer: it asks again."""
        path = self._bundle(id).read_record().cgroup
        with explained(id):
            self.cgroups.update(path, resources)
        steps.checkpoint("update:set")
        if cgroup_systemd.is_scope(path):
            await cgroup_systemd.set_properties(path, resources)

    async def reopen_log(self, id: str, task: Task) -> None:
        own = self._bundle(id)
        path = own.read_record().log_path
        if not process.is_alive(task.pid, task.pid_start):
            raise WrongState(f"container {ids.short(id)} is not running: its log cannot be reopened")
        if path:
            with explained(id):
                await self.monitor.reopen_log(own.directory, task, path)

    # Undoing

    async def delete_pod(self, id: str, cgroup: str) -> None:
        """The bundle is made first and removed last: without it there is nothing."""
        if os.path.lexists(self._bundle(id).directory):
            await self.delete(id, cgroup)

    async def delete(self, id: str, cgroup: str) -> None:
        """The bundle goes last: as long as it is there, creators may be at work, or about to be. One whose daemon was
        killed between its fork and its exec has nothing to be found by at first, so they are looked for until a
        round ends without any."""
        own = self._bundle(id)
        path = cgroup or own.read_record().cgroup
        task = own.read_task()
        creating = task is None and os.path.exists(own.directory)
        while True:
            if creating:
                await self._end_creators(id, own.directory)
            with explained(id):
                try:
                    await self._clear(own, id, path, task)
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY or not self._creators(own.directory):
                        raise
            if not creating or not self._creators(own.directory):
                return

    async def _clear(self, own: bundle.Bundle, id: str, path: str, task: Task | None) -> None:
        """End and remove all that a create made; `path`: the cgroup, "" if there is none."""
        if task is not None:
            with contextlib.suppress(PermissionError):  # see signal
                process.send(task.pid, task.pid_start, signal.SIGKILL)
        if path:
            await self.cgroups.kill(path)
        if task is not None and task.monitor_pid:
            await process.end(task.monitor_pid, task.monitor_start, grace=FLUSH_SECONDS)
        await self._end_starters(id, None)
        await self._remove_state(id)
        if path:
            await self.cgroups.remove(path)
        self.monitor.forget(id)
        own.remove()

    def _creators(self, directory: str) -> list[int]:
        """Monitor and runtime of a create that did not come to its end, by the bundle's path in their arguments, or by
        the runtime's log there: a monitor whose daemon was killed runs `delete`."""
        log_flag = f"--log={bundle.Bundle(directory).log}"
        names = {os.path.basename(name).encode() for name in (self.command.path, self.monitor.path)}
        found = process.find(os.fsencode(directory), os.fsencode(log_flag))
        return [pid for pid in found if process.program_name(pid) in names]

    async def _end_creators(self, id: str, directory: str) -> None:
        """With what they have started, of which nothing else tells whose it is: a hook, or the process that is to be
        the container's, on its way to its cgroup."""
        found: list[int] = []
        try:
            async with asyncio.timeout(CREATOR_SECONDS):
                while found := self._creators(directory):
                    trees = {one for pid in found for one in process.tree(pid)}
                    await asyncio.gather(*(process.end(pid, process.start_time(pid) or 0) for pid in trees))
        except TimeoutError:
            text = f"container {ids.short(id)}: processes {found}, which were creating it, do not die"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None

    async def _remove_state(self, id: str) -> None:
        """`delete --force` runs the hooks and knows what else the runtime made; what it refuses to delete, because
        its state is half-written, is a directory of plain files."""
        directory = os.path.join(self.root, id)
        if not os.path.lexists(directory):
            return
        try:
            await self.command.run(id, "delete", "--force", id, timeout=DELETE_SECONDS)
        except (RopewalkError, OSError) as error:
            log.warning("delete by the runtime failed", extra={"id": id, "error": str(error)})
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                os.unlink(os.path.join(directory, name))
            os.rmdir(directory)

    def _states(self) -> list[str]:
        """Ids that the runtime has state of; names with a dot are its own (crun's .cache)."""
        return [name for name in os.listdir(self.root) if not name.startswith(".")]

    @property
    def probe_prefix(self) -> str:
        """What the ids of this runtime's probes begin with."""
        return f"{handler.PROBE}{self.name}-"

    def probe_cgroup(self, id: str) -> str:
        return cgroup_systemd.child(self.node.cgroup, id)

    def _probes(self) -> list[str]:
        """Ids of probes that have a cgroup, which outlives the state directory."""
        ids = (cgroup_systemd.name(path) for path in self.cgroups.list(self.node.cgroup))
        return [id for id in ids if id.startswith(self.probe_prefix)]

    def _may_sweep(self, id: str) -> bool:
        """Bundles and exit files lie beside those of the other runtimes; what says nothing is anybody's."""
        return self._bundle(id).read_record().runtime in ("", self.name)

    async def sweep(self, owned: set[str]) -> list[str]:
        present = {id for id in (*os.listdir(self.containers), *self.monitor.exited()) if self._may_sweep(id)}
        found = sorted(present.union(self._states(), self._probes()) - owned - self.probing)
        for id in found:
            await self.delete(id, self.probe_cgroup(id) if id.startswith(self.probe_prefix) else "")
        for name in os.listdir(self.sockets):
            path = os.path.join(self.sockets, name)
            with contextlib.suppress(FileNotFoundError):  # a create under way is done with it
                if os.lstat(path).st_mtime < self.began - CLOCK_STEP:  # of an earlier daemon's creates
                    os.unlink(path)
        return found


@contextlib.contextmanager
def explained(id: str) -> Iterator[None]:
    """OSError as an error that names the container."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RopewalkError(
            f"container {ids.short(id)}: {error}", kind=Kind.EXHAUSTED if full else Kind.INTERNAL
        ) from error


def encode(spec: dict[str, Any], rootfs: str) -> bytes:
    """config.json, with the directory where this driver puts the root file system."""
    return build.encode({**spec, "root": {**spec.get("root", {}), "path": rootfs}})


def first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0] or "the runtime failed without a message"
