"""Pod sandboxes: RUN in steps, STOP as their undo, REMOVE as both plus the row.

A sandbox has no process of its own: its namespaces are pinned by bind mounts. Whether it needs one all the same is its
handler's to know: an init for a shared PID namespace, a user-space kernel, a virtual machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence

from ropewalk import ids, steps
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup, namespaces, process, userns
from ropewalk.linux.offload import Offload
from ropewalk.network.network import Network
from ropewalk.pods import ends, files, identity, phases, placement
from ropewalk.pods.containers import Containers
from ropewalk.pods.queues import Queues
from ropewalk.pods.records import Pod, PodPhase
from ropewalk.runtimes import health, refusals
from ropewalk.runtimes.handler import PodPlan, Task
from ropewalk.runtimes.oci import build, resolve, seccomp, selinux, sysctls, usernamespace, validate
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.runtimes.registry import Handlers
from ropewalk.singleflight import Flights
from ropewalk.spec.pod import NamespaceMode, PodSpec
from ropewalk.state.store import Table
from ropewalk.steps import Step

log = logging.getLogger(__name__)


def is_visible(pod: Pod) -> bool:
    return pod.phase is not PodPhase.MAKING


class Sandboxes:
    """Owns the life cycle of pod sandboxes. `state`: the runtime state directory; `instance`: the prefix of every
    kernel name."""

    def __init__(
        self,
        pods: Table[Pod],
        containers: Containers,
        queues: Queues,
        network: Network,
        cgroups: cgroup.Cgroups,
        handlers: Handlers,
        probed: health.Health,
        offload: Offload,
        *,
        node: NodeFacts,
        instance: str,
        state: str,
        boot_id: str,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.pods = pods
        self._containers = containers
        self._queues = queues
        self._network = network
        self._cgroups = cgroups
        self._handlers = handlers
        self._health = probed
        self._offload = offload
        self._node = node
        self._instance = instance
        self._state = state
        self._boot_id = boot_id
        self._now = now
        self._flights: Flights[Pod] = Flights(abandon=False)
        self._changes: Flights[None] = Flights(abandon=False)  # a client that leaves does not leave a change half-way
        self._watches: dict[str, asyncio.Task[None]] = {}

    def get(self, id: str) -> Pod:
        """By id or unique prefix. NotFound for one that is absent or still being made."""
        return self.pods.resolve(id, visible=is_visible)

    def list(self) -> Sequence[Pod]:
        return [pod for pod in self.pods if is_visible(pod)]

    def is_making(self, pod: Pod) -> bool:
        """Whether a run is under way for this row, rather than having left it behind."""
        return self._flights.under_way(identity.pod_key(pod.spec))

    async def run(self, spec: PodSpec) -> Pod:
        """A READY pod sandbox. A repeat with the same metadata joins or adopts; it is never made twice."""
        handler = self._handlers.choose(spec)
        await self._health.known([handler.name], health.FIRST)
        validate.validate_pod(spec, user_namespaces=handler.capabilities.user_namespaces)
        refusals.check(handler, spec)
        key = identity.pod_key(spec)
        await self._flights.overtake(key, wanted=spec)
        existing = self._find(key)
        if existing is not None and is_visible(existing):
            return identity.adopt_pod(existing, spec, handler.name)
        self._health.require(handler.name)
        return await self._flights.join(key, lambda: self._run(spec, handler.name), wanted=spec)

    async def _run(self, spec: PodSpec, handler: str) -> Pod:
        self._cgroups.expect_move()  # of its first container's monitor, which kubelet asks for at once
        left = self._find(identity.pod_key(spec))
        if left is not None:
            await self.undo(left.id)
        self.pods.flush()  # a removal that a full disk kept in memory: after a kill both pods would have its address
        pod = self._plan(spec, handler)
        try:
            self.pods.add(pod)
        except BaseException:
            if pod.attachment is not None:
                await self._network.detach(pod.id, pod.attachment)  # gives the addresses back
            raise
        try:
            await steps.advance(self, RUN, pod.id)
        except BaseException as error:
            if not getattr(error, "__notes__", None):
                self.pods.remove(pod.id)
            raise
        ready = self.pods.apply(pod.id, phases.ready, self._now())
        self.watch(ready)
        return ready

    def _plan(self, spec: PodSpec, handler: str) -> Pod:
        """The row before the first side effect: every kernel name is chosen here."""
        id = ids.new_id()
        group = placement.pod_cgroup(spec, id, instance=self._instance, driver=self._cgroups.driver)
        attachment = self._network.plan(id, spec)
        base = f"{files.directory(self._state, id)}/ns"
        pins: dict[str, str] = {}
        if usernamespace.of_pod(spec) is not None:
            pins["user"] = f"{base}/user"
        if not spec.host_network:
            pins |= {"network": attachment.netns, "uts": f"{base}/uts"}
        if spec.namespaces.ipc is not NamespaceMode.NODE:
            pins["ipc"] = f"{base}/ipc"
        return Pod(
            id=id,
            spec=spec,
            phase=PodPhase.MAKING,
            handler=handler,
            created_at=self._now(),
            boot_id=self._boot_id,
            cgroup=group,
            own_cgroup=not spec.linux.cgroup_parent,
            namespaces=pins,
            attachment=attachment,
            selinux_level=self._selinux_level(spec),
        )

    def _selinux_level(self, spec: PodSpec) -> str:
        taken = {pod.selinux_level for pod in self.pods}
        return selinux.level(self._node.selinux, spec.linux.security_context.selinux_options, taken)

    def _find(self, key: str) -> Pod | None:
        return next((pod for pod in self.pods if identity.pod_key(pod.spec) == key), None)

    # The steps of RUN, each with its undo.

    async def make_namespaces(self, id: str) -> None:
        """The network's is the network's to make, unless the pod's user namespace is to own it."""
        pod = self.pods[id]
        base = files.directory(self._state, id)
        os.makedirs(base, mode=0o700, exist_ok=True)  # no other user of the node reaches the pod's /dev/shm
        os.makedirs(f"{base}/ns", mode=0o711, exist_ok=True)
        pins = _kinds(pod)
        hostname = files.hostname(pod.spec) if "uts" in pins else ""
        maps = usernamespace.of_pod(pod.spec)
        if maps is not None:
            os.makedirs(os.path.dirname(pins["net"]), mode=0o755, exist_ok=True)
            uids, gids = ([userns.Range(0, one.host_id, one.length)] for one in maps)
            await self._offload.call(make_owned, pins, uids, gids, hostname)
            return
        pins.pop("net", None)
        if pins:
            namespaces.make(pins, pins, hostname=hostname)

    async def drop_namespaces(self, id: str) -> None:
        for kind, pin in self.pods[id].namespaces.items():
            if kind != "network":
                namespaces.unpin(pin)
        self.remove_directory(id)

    async def attach(self, id: str) -> None:
        pod = self.pods[id]
        if pod.attachment is not None:
            attachment = await self._network.attach(id, pod.attachment, pod.spec)
            self.pods.apply(id, phases.attached, attachment)

    async def detach(self, id: str) -> None:
        pod = self.pods[id]
        if pod.attachment is not None:
            await self._network.detach(id, pod.attachment)

    async def write_files(self, id: str) -> None:
        pod = self.pods[id]
        maps = usernamespace.of_pod(pod.spec)
        values = sysctls.build(pod.spec)
        owner = (maps.uids.host_id, maps.gids.host_id) if maps is not None else (0, 0)
        files.write(self._state, id, pod.spec, owner)
        label = selinux.of_pod(self._node.selinux, pod.spec, pod.selinux_level)
        if label:
            files.label(self._state, id, pod.spec, label)
        if maps is not None:
            await self._offload.call(userns.write_sysctls, _kinds(pod), values)
        elif values:
            namespaces.write_sysctls(_kinds(pod), values)

    async def remove_files(self, id: str) -> None:
        files.remove(self._state, id)

    async def create_task(self, id: str) -> None:
        """What the handler needs of its own, if anything."""
        pod = self.pods[id]
        handler = self._handlers[pod.handler]
        if not handler.needs_pod(pod.spec):
            return
        path = placement.container_cgroup(pod, id)
        profile = seccomp.profile_file(pod.spec.linux.security_context)
        read, limit = resolve.read_seccomp_profile, seccomp.MAX_PROFILE
        plan = PodPlan(
            id=id,
            pod=pod.spec,
            spec=build.init_spec(
                pod.spec,
                id=id,
                namespaces=pod.namespaces,
                cgroup_path=path,
                node=self._node,
                allow=handler.config.pod_annotations,
                fixed=handler.config.annotations,
                seccomp_profile=await self._offload.call(read, profile, limit) if profile else None,
            ),
            cgroup=path,
            parent=pod.cgroup,
            monitor_cgroup=placement.monitor_cgroup(pod),
            namespaces=pod.namespaces,
        )
        task = await handler.create_pod(plan)
        if task is not None:
            self.pods.apply(id, phases.sandboxed, task)

    async def delete_task(self, id: str) -> None:
        pod = self.pods[id]
        self._unwatch(id)
        await self._handlers.of(pod.handler).delete_pod(id, placement.container_cgroup(pod, id))
        await self._remove_cgroups(pod)

    async def _remove_cgroups(self, pod: Pod) -> None:
        """Who is still in them when their removal has waited works for nobody: the runtime of a shim that was killed
        in the middle, say, or the shim of a handler that is configured no more."""
        path = pod.cgroup if pod.own_cgroup else placement.monitor_cgroup(pod)
        try:
            await placement.remove(self._cgroups, path)
        except OSError:
            left = [process.command_line(pid) for pid in self._cgroups.processes(path)]
            if not left:
                raise
            commands = [b" ".join(argv)[:200].decode(errors="replace") for argv in left]
            log.warning("killed what outlived the pod", extra={"pod": pod.id, "cgroup": path, "commands": commands})
            await self._cgroups.kill(path)
            await placement.remove(self._cgroups, path)

    # Stop and remove.

    async def stop(self, id: str) -> None:
        """Everything of the pod ends and its network is released; absent is fine."""
        pod = self._resolve(id)
        if pod is not None and not pod.torn_down:
            await self._changes.join(f"stop of pod sandbox {pod.id}", lambda: self._stop_first(pod.id))

    async def _stop_first(self, id: str) -> None:
        async with self._queues.overtake(id):
            if id in self.pods:
                await self._stop(id)

    async def _stop(self, id: str) -> None:
        self.pods.apply(id, phases.notready, derivable=True)
        await self._containers.kill_all(id)
        left = await steps.retreat(self, RUN, id)
        if left:
            raise RopewalkError(f"pod sandbox {id!r} is stopped, but something of it is left: {'; '.join(left)}")
        self.pods.apply(id, phases.torn_down, derivable=True)

    async def remove(self, id: str) -> None:
        """Stop it if need be, remove its containers, then the row; absent is fine."""
        pod = self._resolve(id)
        if pod is not None:
            await self._changes.join(f"removal of pod sandbox {pod.id}", lambda: self._remove(pod.id))

    async def _remove(self, id: str) -> None:
        async with self._queues.overtake(id):
            if id not in self.pods:
                return
            if not self.pods[id].torn_down:
                await self._stop(id)
            await self._containers.remove_all(id)
            self.pods.remove(id)

    def _resolve(self, id: str) -> Pod | None:
        try:
            return self.get(id)
        except RopewalkError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    async def undo(self, id: str) -> None:
        """What an earlier attempt left behind, then its row; absent is fine. After a restart the recovery and a repeat
        of the call want that at the same time: one does it, the other joins."""
        await self._changes.join(f"undo of pod sandbox {id}", lambda: self._forget(id))

    async def _forget(self, id: str) -> None:
        if id not in self.pods:
            return
        left = await steps.retreat(self, RUN, id)
        if left:
            raise RopewalkError(f"pod sandbox {id!r} of an earlier attempt is left: {'; '.join(left)}", kind=Kind.STATE)
        self.pods.remove(id)

    # The sandbox's own process.

    def watch(self, pod: Pod) -> None:
        """NOTREADY as soon as what its handler needs for it ends; no process, nothing to watch."""
        if pod.task is not None and pod.id not in self._watches:
            self._watches[pod.id] = asyncio.ensure_future(self._await_task(pod.id, pod.task))

    async def _await_task(self, id: str, task: Task) -> None:
        """A container that is restored from a checkpoint has the pod's own process replaced."""
        while True:
            await ends.of_process(id, task)
            if self._containers.checkpoints.is_restoring(id):
                async with self._queues.turn(id):  # that of the restore is before
                    pass
            pod = self.pods.get(id)
            if pod is None or pod.task is None or pod.task == task:
                break
            task = pod.task
        self._watches.pop(id, None)
        if id in self.pods:
            log.warning("the pod's own process ended", extra={"pod": id, "pid": task.pid})
            self.pods.apply(id, phases.notready, derivable=True)

    def _unwatch(self, id: str) -> None:
        watch = self._watches.pop(id, None)
        if watch is not None:
            watch.cancel()

    def verify(self, pod: Pod) -> str:
        """Why a recorded READY pod is not: "" if everything it needs is there."""
        for kind, pin in pod.namespaces.items():
            if not namespaces.is_pinned(pin):
                return f"its {kind} namespace {pin} is gone"
        if pod.task is not None and process.start_time(pod.task.pid) != pod.task.pid_start:
            return f"its own process {pod.task.pid} is gone"
        return ""

    def remove_directory(self, id: str) -> None:
        """Pins, mounts and files of a pod, from its id alone."""
        directory = files.directory(self._state, id)
        pins = f"{directory}/ns"
        for name in os.listdir(pins) if os.path.isdir(pins) else ():
            namespaces.unpin(f"{pins}/{name}")
        files.remove(self._state, id)
        for path in (pins, directory):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)

    async def close(self) -> None:
        """Stop watching; the pods go on. Without pods nothing stays in the cgroup hierarchies."""
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        if not len(self.pods):
            for root in placement.roots(self._instance):
                await placement.remove(self._cgroups, root)


def _kinds(pod: Pod) -> dict[str, str]:
    """The pod's pins by the kernel's names."""
    return {"net" if kind == "network" else kind: pin for kind, pin in pod.namespaces.items()}


def make_owned(pins: dict[str, str], uids: list[userns.Range], gids: list[userns.Range], hostname: str) -> None:
    """userns.make for a worker: every argument by position."""
    userns.make(pins, uids, gids, hostname=hostname)


RUN = (
    Step("namespaces", Sandboxes.make_namespaces, Sandboxes.drop_namespaces),
    Step("network", Sandboxes.attach, Sandboxes.detach),
    Step("files", Sandboxes.write_files, Sandboxes.remove_files),
    Step("sandbox", Sandboxes.create_task, Sandboxes.delete_task),
)  # every undo is idempotent and finds its work from the row
