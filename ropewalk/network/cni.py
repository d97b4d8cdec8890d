"""Pod networks by CNI plugins: ADD, DEL, CHECK, GC and STATUS of the first usable configuration (specification 1.1.0).

Which configuration that is, and how it is, is discovery.py's. What an attachment was made with is kept (cache.py), so
its DEL is the same whatever became of the configuration, and after a restart. The network namespace is ours: the
plugins get it with its loopback up. Nothing here is shared between pods but GC's gate, so a plugin that hangs keeps its
own pod waiting, until its deadline, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Coroutine, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from ropewalk import steps
from ropewalk.errors import Invalid, RopewalkError
from ropewalk.linux import namespaces, netlink, rtnetlink
from ropewalk.network import (
    cache,
    capabilities,
    conflist,
    counters,
    discovery,
    hostports,
    ipam,
    mode,
    netns,
    plugins,
    result,
)
from ropewalk.network.attachment import Attachment
from ropewalk.network.counters import InterfaceStats
from ropewalk.network.gate import Gate
from ropewalk.spec.pod import PodSpec

log = logging.getLogger(__name__)

_FIRST_LOOK = 1.0  # seconds that the start waits for the first look; a plugin that hangs does not keep the node down
_GC_PATIENCE = 60.0  # for a moment without ADD and DEL
_GC_LIMIT = 10.0  # then pods wait for it, and no longer
_ASKED = frozenset(("portMappings", "bandwidth"))  # capabilities that pods ask for; the others are ours to offer


class Config(Struct, frozen=True):
    """[network.cni]"""

    conf_dir: Annotated[
        str, Meta(description="directory of network configurations; the first usable one by name is taken")
    ] = "/etc/cni/net.d"
    bin_dirs: Annotated[list[str], Meta(description="directories of plugins; the first that has one wins")] = field(
        default_factory=lambda: ["/opt/cni/bin", "/usr/lib/cni"]
    )
    timeout: Annotated[
        float, Meta(description="seconds that one plugin may take to add or delete a pod; then it is killed", gt=0)
    ] = 60.0
    check: Annotated[
        bool, Meta(description="after a restart, ask the plugins about each pod (CHECK); a pod that fails is not ready")
    ] = False
    gc: Annotated[
        bool,
        Meta(
            description="after a restart, let the plugins free what belongs to no pod (GC, CNI 1.1); false if "
            "something that does not use libcni attaches to the same network"
        ),
    ] = True


class Cni(mode.Mode):
    """See the module. `directory` keeps what plugins were told and answered; `ports`: of the whole node."""

    name = "cni"

    def __init__(
        self,
        config: Config,
        *,
        instance: str,
        directory: str,
        ports: hostports.Ports,
        netns_directory: str = netns.DIRECTORY,
        ready: int = 0,
    ) -> None:
        self._config = config
        self._plugins = plugins.Plugins(config.bin_dirs, config.timeout)
        self._cache = cache.Cache(directory)
        self._namespaces = netns.Namespaces(netns_directory, f"{instance}-cni-", ready=ready)
        self._namespaces.ipv6 = None  # the plugins' to decide
        self._discovery = discovery.Discovery(config.conf_dir, self._plugins)
        self._ports = ports
        self._unserved: set[tuple[str, str]] = set()
        self._cidrs: list[str] = []
        self._pods: dict[str, Attachment] = {}
        self._gate = Gate()
        self._counters = counters.Counters()
        self._socket: netlink.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, ready: int) -> None:
        self._namespaces.keep(ready)

    async def start(self) -> None:
        await self._plugins.end_strays({entry.container_id for entry in self._cache.list() if entry.result is None})
        if not self._cidrs:
            self._recall_pod_cidr()
        self._begin(self._discovery.watch())
        self._begin(self._namespaces.fill())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK):
                await self._discovery.looked.wait()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(_report)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._namespaces.discard()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def condition(self) -> tuple[bool, str, str]:
        return self._discovery.condition()

    def info(self) -> dict[str, str]:
        return self._discovery.info(self._config.bin_dirs, Attachment(mode=self.name).interface)

    def set_pod_cidr(self, cidr: str) -> None:
        """For plugins that declare the capability ipRanges."""
        self._cidrs = _split(cidr)
        try:
            self._cache.write_pod_cidr(cidr)
        except OSError as error:
            log.warning("the pod CIDR is not kept for the next start", extra={"cidr": cidr, "error": str(error)})

    def _recall_pod_cidr(self) -> None:
        """What a power cut made of the file must not keep the node down: the kubelet says it again when it starts."""
        try:
            self._cidrs = _split(self._cache.read_pod_cidr())
        except (OSError, UnicodeDecodeError, Invalid) as error:
            log.warning("the pod CIDR that was kept is damaged", extra={"error": str(error)})

    # One pod.

    def plan(self, pod_id: str, spec: PodSpec) -> Attachment:
        """The name of its namespace and its host ports; the rest is the plugins' to choose. STATE for a host port that
        another pod has: portmap would add its rules behind that one's, and nothing would reach the new pod."""
        if pod_id in self._pods:
            return self._pods[pod_id]
        self._discovery.usable()
        capabilities.build_arguments(pod_id, spec)
        capabilities.build(spec, self._cidrs)
        ports = hostports.parse_mappings(spec.port_mappings, ipv6=True, loopback6=True)
        self._ports.check(pod_id, ports)
        chosen = self._namespaces.choose(ready=not spec.own_users)
        self._ports.reserve(pod_id, ports)
        self._pods[pod_id] = Attachment(mode=self.name, netns=chosen, ports=ports)
        return self._pods[pod_id]

    async def attach(self, pod_id: str, attachment: Attachment, spec: PodSpec) -> Attachment:
        """ADD. The attachment with the addresses that the plugins gave."""
        with self._namespaces.enter(attachment.netns) as inside:
            async with self._gate.shared():
                entry = cache.Entry(
                    container_id=pod_id,
                    interface=attachment.interface,
                    netns=attachment.netns,
                    network=self._discovery.usable(),
                    arguments=capabilities.build_arguments(pod_id, spec),
                    capabilities=capabilities.build(spec, self._cidrs),
                )
                self._say_unserved(entry)
                self._cache.write(entry)
                steps.checkpoint("cni:begun")
                said = await self._add(entry)
                self._cache.write(replace(entry, result=msgspec.json.decode(said)))
                steps.checkpoint("cni:kept")
            attached = self._describe(attachment, result.parse(said), inside)
        self._pods[pod_id] = attached
        return attached

    def _say_unserved(self, entry: cache.Entry) -> None:
        """What a pod asks for and no plugin of its network declares, once for each network. Some add-ons see to it by
        other means."""
        for name in _ASKED.intersection(entry.capabilities).difference(entry.network.capabilities):
            if (said := (entry.network.name, name)) not in self._unserved:
                self._unserved.add(said)
                extra = {"network": entry.network.name, "capability": name, "pod": entry.container_id}
                log.warning("a pod asks its network for what no CNI plugin declares", extra=extra)

    async def _add(self, entry: cache.Entry) -> bytes:
        """Each plugin gets the result of the one before it; the last one's is the network's."""
        said = b""
        for plugin in entry.network.plugins:
            answer = await self._run("ADD", entry, plugin, previous=said)
            try:
                said = result.check(answer, version=entry.network.version)
            except RopewalkError as error:
                raise plugins.Failed(f"CNI ADD: the plugin {plugin['type']}: {error.message}") from error
            steps.checkpoint(f"cni ADD {plugin['type']}:after")
        return said

    def _describe(self, attachment: Attachment, made: result.Result, inside: netlink.Socket) -> Attachment:
        addresses = made.of(attachment.interface)
        return replace(
            attachment,
            host_interface=_port(made, inside, attachment.interface),
            addresses=[ip.address for ip in addresses],
            gateways=[ip.gateway for ip in addresses],
            mac=made.mac(attachment.interface),
        )

    async def detach(self, pod_id: str, attachment: Attachment) -> None:
        """DEL, if ADD was begun. Every plugin is asked, whatever the others say; if one refuses, all of it is done
        again with the next call. The namespace stays until then: a plugin may have to fetch a device from it."""
        entry = self._cache.read(pod_id, attachment.interface)
        if entry is not None:
            await self._delete(entry)
        elif attachment.addresses:
            await self._delete_unknown(pod_id, attachment)
        self._namespaces.remove(attachment.netns)
        steps.checkpoint("cni:unpinned")
        self._cache.remove(pod_id, attachment.interface)
        self._pods.pop(pod_id, None)
        self._ports.release(pod_id)

    async def _delete_unknown(self, pod_id: str, attachment: Attachment) -> None:
        """Somebody removed what we kept of an attachment: the network as it is now is the best guess, and keeps no pod
        from leaving."""
        network = self._discovery.network
        if network is None:
            log.warning(
                "no CNI plugin is told that a pod leaves: nothing is known of its network", extra={"pod": pod_id}
            )
            return
        try:
            await self._delete(cache.Entry(pod_id, attachment.interface, attachment.netns, network))
        except RopewalkError as error:
            log.warning("a pod leaves a CNI network that is not known", extra={"pod": pod_id, "error": error.message})

    async def _delete(self, entry: cache.Entry) -> None:
        """A namespace that is gone is not named; plugins then free what they keep elsewhere."""
        there = replace(entry, netns=entry.netns if namespaces.is_pinned(entry.netns) else "")
        previous = entry.previous if entry.network.at_least("0.4.0") else b""
        failed: list[RopewalkError] = []
        async with self._gate.shared():
            for plugin in reversed(entry.network.plugins):
                try:
                    await self._run("DEL", there, plugin, previous=previous)
                    steps.checkpoint(f"cni DEL {plugin['type']}:after")
                except RopewalkError as error:
                    failed.append(error)
        if failed:
            path = self._cache.path(entry.container_id, entry.interface)
            raise RopewalkError(
                "; ".join(error.message for error in failed),
                hint=f"it is tried again; if that can never succeed, remove {path}",
                kind=failed[0].kind,
            ) from failed[0]

    async def check(self, pod_id: str, attachment: Attachment) -> str:
        """CHECK, if it is wanted (network.cni.check) and the plugins know it. No answer proves nothing."""
        entry = self._cache.read(pod_id, attachment.interface) if self._config.check else None
        if entry is None or entry.result is None or entry.network.disable_check or not entry.network.at_least("0.4.0"):
            return ""
        for plugin in entry.network.plugins:
            try:
                await self._run("CHECK", entry, plugin, previous=entry.previous)
            except plugins.Failed as error:
                return error.message
            except RopewalkError as error:
                log.warning("cannot check a pod's network", extra={"pod": pod_id, "error": error.message})
        return ""

    async def _run(self, command: str, entry: cache.Entry, plugin: dict[str, Any], *, previous: bytes) -> bytes:
        return await self._plugins.run(
            command,
            plugin["type"],
            conflist.build_input(entry.network, plugin, capabilities=entry.capabilities, previous=previous),
            container_id=entry.container_id,
            netns=entry.netns,
            interface=entry.interface,
            arguments=entry.arguments,
        )

    # After a restart.

    def adopt(self, owned: Mapping[str, Attachment]) -> None:
        self._pods.update(owned)
        for pod_id, attachment in owned.items():
            self._ports.reserve(pod_id, attachment.ports)

    async def sweep(self) -> list[str]:
        """DEL for attachments without a pod, then their namespaces; GC goes on in the background."""
        stray = [entry for entry in self._cache.list() if entry.container_id not in self._pods]
        left = await asyncio.gather(*(self._sweep_one(entry) for entry in stray))
        self._cache.sweep()
        kept = {attachment.netns for attachment in self._pods.values()} | set(left)
        found = [f"CNI attachment {entry.container_id}" for entry in stray if entry.netns not in left]
        found += self._namespaces.sweep(kept)
        network = self._discovery.network
        if network is not None and self._config.gc:
            self._begin(self._collect(network))
        return found

    async def _sweep_one(self, entry: cache.Entry) -> str:
        """The namespace that must stay, because DEL failed and is tried again after the next restart."""
        try:
            await self._delete(entry)
        except RopewalkError as error:
            extra = {"id": entry.container_id, "error": error.message}
            log.warning("cannot delete a CNI attachment without a pod", extra=extra)
            return entry.netns
        self._cache.remove(entry.container_id, entry.interface)
        return ""

    async def _collect(self, network: conflist.Network) -> None:
        """GC: every plugin, whatever the others say. What runtimes beside us attached is valid too; another instance
        of ours keeps that in a place of its own, so where there is one GC is left out (decision 0008)."""
        if network.disable_gc or not network.at_least("1.1.0"):
            return
        if beside := self._namespaces.of_others():
            log.warning("CNI GC is left out: another Ropewalk on this node has pods", extra={"namespaces": beside})
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_GC_PATIENCE):
                    await stack.enter_async_context(self._gate.alone())
                async with asyncio.timeout(_GC_LIMIT):
                    await self._collect_alone(network)
            except TimeoutError:
                log.warning("CNI GC was not finished: pods came and went all the time, or its plugins take too long")

    async def _collect_alone(self, network: conflist.Network) -> None:
        """Valid is what stands in the cache, and every pod: one whose file is damaged or gone is in use, too."""
        kept = [(entry.container_id, entry.interface, entry.network.name) for entry in self._cache.list()]
        ours = [(pod_id, interface) for pod_id, interface, name in kept if name == network.name]
        ours += [(pod_id, attachment.interface) for pod_id, attachment in self._pods.items()]
        valid = [{"containerID": pod_id, "ifname": interface} for pod_id, interface in dict.fromkeys(ours)]
        valid += cache.foreign(network.name)
        for plugin in network.plugins:
            try:
                await self._plugins.run("GC", plugin["type"], conflist.build_input(network, plugin, valid=valid))
            except RopewalkError as error:
                log.warning("CNI GC failed", extra={"error": error.message})

    # Looking.

    async def stats(self, attachment: Attachment) -> list[InterfaceStats]:
        """By the interface's other end on the node where it has one: one reading for all pods."""
        if attachment.host_interface:
            if self._socket is None:
                self._socket = netlink.Socket()
            return self._counters.of_port(self._socket, attachment.host_interface, attachment.interface)
        try:
            with namespaces.inside({"net": attachment.netns}, netlink.Socket) as sock:
                return counters.inside(sock, attachment.interface)
        except OSError:
            return []


def _split(cidr: str) -> list[str]:
    return [str(net) for net in ipam.parse_pod_cidr(cidr) if net is not None]


def _port(made: result.Result, inside: netlink.Socket, interface: str) -> str:
    """The other end of the pod's interface, if the plugins say that they made it on the node; else "": its index may
    be one of another namespace."""
    try:
        name = socket.if_indextoname(rtnetlink.link(inside, interface).peer)
    except (OSError, OverflowError):
        return ""
    return name if made.on_node(name) else ""


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the network's background work ended", exc_info=error)
