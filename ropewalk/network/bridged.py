"""The built-in bridge network: attach and detach a pod in about a millisecond, without a process.

A pod's names and addresses are chosen in `plan`, which stands in the pod's row before `attach` makes anything. `detach`
cuts the pod off at once; the kernel destroys namespace and link afterwards (30-40 ms), and only when the link is gone
is the address free again. After a kill, `adopt` takes back what rows own and `sweep` removes the rest.

Order: adopt, start, sweep. Everything runs in the event loop's thread, in the node's own network namespace.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import netlink, nft, rtnetlink
from ropewalk.network import bridge, counters, firewall, flows, hostports, ipam, mode, netns
from ropewalk.network.attachment import Attachment
from ropewalk.network.counters import InterfaceStats
from ropewalk.spec.pod import PodSpec

log = logging.getLogger(__name__)

_WATCH = 5.0  # seconds between looks at our own table
_WATCH_OTHERS = 60.0  # and at other people's rules; a network that could not be set up is tried again as often
_GONE_AFTER = 0.05  # seconds after which a destroyed link is usually gone
_STUCK_AFTER = 2.0  # after which it is deleted explicitly: something still holds the namespace
_CLOSE_LOOKS = 20  # times that a shutdown looks whether they are
_STUCK_AFTER_CLOSE = 0.3


class Config(Struct, frozen=True):
    """The keys of [network] that are the bridge's."""

    bridge: Annotated[
        str, Meta(max_length=15, description="name of the bridge; empty: ropewalk0, or ropewalk-<tag>")
    ] = ""
    subnet: Annotated[str, Meta(description="IPv4 subnet of the pods; empty: a free one, or kubelet's pod CIDR")] = ""
    subnet6: Annotated[
        str, Meta(description='IPv6 subnet of the pods; empty: a unique local one; "none": pods have no IPv6')
    ] = ""
    mtu: Annotated[int, Meta(description="of the pods' interfaces; 0: that of the default route's link", ge=0)] = 0
    ready: Annotated[
        int,
        Meta(description="network namespaces kept ready for the next pods", ge=0, le=64, extra={"live": True}),
    ] = 4


class Leaving(Struct):
    """A detached pod whose link may still be there. `since`: time.monotonic()."""

    attachment: Attachment
    since: float


class Bridged(mode.Mode):
    """See the module. `instance` names pins and table, `tag` (4 hex digits) the links; `ports`: of the whole node."""

    name = "bridge"

    def __init__(
        self,
        config: Config,
        *,
        instance: str,
        tag: str,
        ports: hostports.Ports,
        netns_directory: str = netns.DIRECTORY,
    ) -> None:
        self._config = config
        self._table = instance
        self._instance = instance
        self._tag = tag
        self._default = tag == "0000"
        self._bridge = config.bridge or ("ropewalk0" if self._default else f"ropewalk-{tag}")
        self._port = re.compile(f"rw{re.escape(tag)}[0-9a-f]{{8}}")
        self._namespaces = netns.Namespaces(netns_directory, f"{instance}-", ready=config.ready)
        self._nft = nft.Nft()
        self._ports = ports
        self._closing: set[str] = set()  # pods that left, whose ports are not closed yet
        self._ranges: list[ipam.Range] = []  # of the pods to come, IPv4 first
        self._attached: dict[str, Attachment] = {}
        self._leaving: dict[str, Leaving] = {}
        self._left = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: netlink.Socket | None = None
        self._index = 0
        self._mtu = 0
        self._given: dict[int, ipam.Net] = {}  # pod CIDR by IP version
        self._table_is_stale = True
        self._writing = asyncio.Lock()
        self._problem = "the network has not been set up yet"
        self._blocked: list[str] = []
        self._counters = counters.Counters()

    # Setting up.

    def keep(self, ready: int) -> None:
        self._namespaces.keep(ready)

    async def start(self) -> None:
        """Bridge, table, pool. A failure is not raised: `condition` says it, and it is tried again."""
        await self._try_set_up()
        self._tasks = [asyncio.create_task(work) for work in (self._reap(), self._watch(), self._namespaces.fill())]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def close(self) -> None:
        """End the background work. Pods keep their network; without pods nothing of it stays on the node, except a
        bridge that carries the pod CIDR which the kubelet gave."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for _ in range(_CLOSE_LOOKS):
            if not self._leaving:
                break
            await asyncio.sleep(_GONE_AFTER)
            await self._reap_once(stuck_after=_STUCK_AFTER_CLOSE)
        self._namespaces.discard()
        if not self._attached and not self._leaving and not self._given and self._index:
            await self._remove()
        self._nft.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _remove(self) -> None:
        try:
            await self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
            await bridge.delete([self._bridge])
        except (OSError, RopewalkError) as error:
            log.warning("the bridge stays", extra={"bridge": self._bridge, "error": str(error)})

    async def _try_set_up(self) -> None:
        try:
            await self._set_up()
            self._problem = ""
        except (OSError, RopewalkError) as error:
            self._problem = str(error)
            log.error("cannot set up the pod network", extra={"bridge": self._bridge, "error": str(error)})
            return
        self._look_at_others()

    async def _set_up(self) -> None:
        sock = self._sock()
        ipv6 = bridge.has_ipv6() and self._config.subnet6 != ipam.NO_IPV6
        if self._config.subnet6 not in ("", ipam.NO_IPV6) and not ipv6:
            log.warning("pods have no IPv6: this node has none", extra={"network.subnet6": self._config.subnet6})
        self._namespaces.ipv6 = ipv6
        self._mtu = self._config.mtu or bridge.uplink_mtu(sock)
        if not self._ranges:
            self._ranges = [self._new_range(net) for net in self._choose_subnets(sock, ipv6=ipv6)]
        bridge.allow_forwarding(sock, ipv6=ipv6)
        self._index = bridge.ensure(sock, self._bridge, mtu=self._mtu, gateways=self._gateways())
        bridge.take_back(sock, self._index, {attachment.host_interface for attachment in self._attached.values()})
        await self._write_table()

    def _choose_subnets(self, sock: netlink.Socket, *, ipv6: bool) -> list[ipam.Net]:
        """From the settings, the pod CIDR, what the bridge has already, or a free one; IPv4 first."""
        index = bridge.find(self._bridge)
        known = (bridge.subnets_of(sock, index) if index else {}) | self._given
        if self._config.subnet:
            chosen = [ipam.parse_subnet(self._config.subnet, version=4, name="network.subnet")]
        else:
            routed = bridge.routed(sock, but=index)
            chosen = [known.get(4) or ipam.plan_subnet(self._tag, routed, default=self._default)]
        if ipv6 and self._config.subnet6:
            chosen.append(ipam.parse_subnet(self._config.subnet6, version=6, name="network.subnet6"))
        elif ipv6:
            chosen.append(known.get(6) or ipam.plan_subnet6(self._instance))
        return chosen

    def _new_range(self, net: ipam.Net) -> ipam.Range:
        """A range without the addresses that pods have or have not quite given back."""
        made = ipam.Range(net)
        for attachment in [*self._attached.values(), *(leaving.attachment for leaving in self._leaving.values())]:
            for ip in map(ipaddress.ip_address, attachment.ips):
                if ip in net:
                    made.reserve(ip)
        return made

    def _gateways(self) -> list[rtnetlink.Interface]:
        """The bridge's addresses: of the pods to come first, then of the pods that are there."""
        found = {ipaddress.ip_interface((range.gateway.packed, range.net.prefixlen)): None for range in self._ranges}
        for attachment in self._attached.values():
            for address, gateway in zip(attachment.addresses, attachment.gateways, strict=True):
                found[ipaddress.ip_interface(f"{gateway}/{address.partition('/')[2]}")] = None
        return list(found)

    def _elements(self) -> list[hostports.Entry]:
        return [
            element
            for attachment in self._attached.values()
            for element in hostports.entries(attachment.ports, attachment.ips)
        ]

    async def _write_table(self) -> None:
        """The table as it must be. Ports that detach could not close are free afterwards."""
        async with self._writing:
            self._table_is_stale = True
            subnets = [gateway.network for gateway in self._gateways()]
            table = firewall.build_table(f"inet {self._table}", self._bridge, subnets, self._elements())
            closed = set(self._closing)
            await self._nft.run(table)
            self._table_is_stale = False
            for pod_id in closed:
                self._ports.release(pod_id)
            self._closing -= closed

    def set_pod_cidr(self, cidr: str) -> None:
        """The subnets of later pods, "10.1.0.0/24" or one of each family with a comma; pods that are there keep
        their addresses. Explicit settings win. Invalid if it is no subnet."""
        for net, setting in zip(ipam.parse_pod_cidr(cidr), (self._config.subnet, self._config.subnet6), strict=True):
            if net is not None and not setting:
                self._given[net.version] = net
                if self._ranges:
                    self._use(net)

    def _use(self, net: ipam.Net) -> None:
        versions = [range.net.version for range in self._ranges]
        if any(range.net == net for range in self._ranges) or (net.version == 6 and not self._namespaces.ipv6):
            return
        others = [range for range in self._ranges if range.net.version != net.version]
        self._ranges = sorted([*others, self._new_range(net)], key=lambda range: range.net.version)
        log.info("pod subnet", extra={"subnet": str(net), "replaced": net.version in versions})
        self._table_is_stale = True
        if self._index:
            bridge.add_gateways(self._sock(), self._index, self._gateways())

    # What a pod asks for.

    def plan(self, pod_id: str, spec: PodSpec) -> Attachment:
        """Names, addresses and ports for a pod; they are its own until `detach`. The same again for the same pod.

        INVALID for an impossible port mapping, STATE for a host port that another pod has, EXHAUSTED without
        addresses, UNAVAILABLE if the network could not be set up."""
        if pod_id in self._attached:
            return self._attached[pod_id]
        if self._problem:
            raise RopewalkError(f"the pod network is not ready: {self._problem}", kind=Kind.UNAVAILABLE)
        ipv6 = any(range.net.version == 6 for range in self._ranges)
        ports = hostports.parse_mappings(spec.port_mappings, ipv6=ipv6)
        self._ports.check(pod_id, ports)
        taken = self._take()
        attachment = Attachment(
            mode=self.name,
            netns=self._namespaces.choose(ready=not spec.own_users),
            host_interface=f"rw{self._tag}{os.urandom(4).hex()}",
            addresses=[f"{ip}/{range.net.prefixlen}" for range, ip in taken],
            gateways=[str(range.gateway) for range, _ in taken],
            mac=ipam.hardware_address(taken[0][1]).hex(":"),
            ports=ports,
        )
        self._ports.reserve(pod_id, ports)
        self._attached[pod_id] = attachment
        return attachment

    def _take(self) -> list[tuple[ipam.Range, ipam.Address]]:
        """One address of each family; none if one family has none left."""
        taken: list[tuple[ipam.Range, ipam.Address]] = []
        try:
            for range in self._ranges:
                taken.append((range, range.take()))
        except ipam.Exhausted:
            for range, ip in taken:
                range.release(ip)
            raise
        return taken

    async def attach(self, pod_id: str, attachment: Attachment, spec: PodSpec) -> Attachment:
        """Make what was planned. After a failure `detach` removes whatever was made."""
        if self._table_is_stale:
            await self._write_table()
        with self._namespaces.enter(attachment.netns) as inside:
            bridge.connect(
                self._sock(),
                self._index,
                attachment.host_interface,
                netns=attachment.netns,
                interface=attachment.interface,
                mac=bytes.fromhex(attachment.mac.replace(":", "")),
                mtu=self._mtu,
            )
            bridge.configure(inside, attachment.interface, attachment.addresses, attachment.gateways)
        if attachment.ports:
            elements = hostports.entries(attachment.ports, attachment.ips)
            async with self._writing:
                await self._nft.run(hostports.add_commands(f"inet {self._table}", elements))
            flows.forget_passed_by(self._sock(), attachment.ports, attachment.ips)
        return attachment

    async def detach(self, pod_id: str, attachment: Attachment) -> None:
        """Undo of plan and attach, at any point of them; idempotent. On return the pod is cut off and its ports are
        free; its addresses are when the link is gone."""
        there = bridge.cut(self._sock(), attachment.host_interface)
        self._namespaces.remove(attachment.netns)
        if self._attached.pop(pod_id, None) is not None or there:
            self._leaving[pod_id] = Leaving(attachment, time.monotonic())
        if not there:
            self._release(pod_id)
        self._left.set()
        if attachment.ports and self._ports.holds(pod_id):
            await self._close_ports(pod_id, attachment)

    async def _close_ports(self, pod_id: str, attachment: Attachment) -> None:
        """The ports are held until nothing leads to the old address any more, else a later pod's could not be added.
        That never keeps a pod from stopping: what fails here is done when the table is next written."""
        elements = list(hostports.entries(attachment.ports, attachment.ips))
        self._closing.add(pod_id)
        try:
            async with self._writing:
                await self._nft.run(hostports.remove_commands(f"inet {self._table}", elements))
            self._ports.release(pod_id)
            self._closing.discard(pod_id)
            flows.forget_gone(attachment.ports, attachment.ips)
        except RopewalkError as error:
            self._table_is_stale = True
            log.warning("host ports are not closed yet", extra={"pod": pod_id, "error": error.message})

    def _release(self, pod_id: str) -> None:
        """The link is gone: the addresses are free."""
        leaving = self._leaving.pop(pod_id, None)
        if leaving is not None:
            for ip in map(ipaddress.ip_address, leaving.attachment.ips):
                for range in self._ranges:
                    if ip in range.net:
                        range.release(ip)

    async def check(self, pod_id: str, attachment: Attachment) -> str:
        """Nothing: what could be wrong, `start` and the watch repair."""
        return ""

    # After a restart.

    def adopt(self, owned: Mapping[str, Attachment]) -> None:
        """These pods have their addresses and ports already. Before `start`, so that the table is made with them."""
        for pod_id, attachment in owned.items():
            self._attached[pod_id] = attachment
            self._ports.reserve(pod_id, attachment.ports)
            for ip in map(ipaddress.ip_address, attachment.ips):
                for range in self._ranges:
                    if ip in range.net:
                        range.reserve(ip)
        self._table_is_stale = True

    async def sweep(self) -> list[str]:
        """Remove this instance's links, pins and host ports that no pod owns; their names. Links first: a namespace
        with a process in it would keep its link, and its address, for as long as the process lives."""
        pods = [*self._attached.values(), *(leaving.attachment for leaving in self._leaving.values())]
        kept = {attachment.host_interface for attachment in pods}
        stray = [
            link.name
            for link in rtnetlink.links(self._sock())
            if self._port.fullmatch(link.name) and link.name not in kept
        ]
        found = stray + self._namespaces.sweep({attachment.netns for attachment in pods})
        await bridge.delete(stray)
        if self._problem:
            return found
        wanted = set(self._elements())
        listed = hostports.parse_elements(await self._nft.run(f"list table inet {self._table}", json=True))
        found += [f"host port {element.match}" for element in listed if element not in wanted]
        if self._table_is_stale or set(listed) != wanted:
            await self._write_table()
        return found

    # Looking.

    def condition(self) -> tuple[bool, str, str]:
        """Ready, reason and message, as CRI's NetworkReady."""
        if self._problem:
            return False, "NetworkPluginNotReady", f"the pod network is not ready: {self._problem}"
        return True, "ForwardBlocked" if self._blocked else "", "; ".join(self._blocked)

    async def stats(self, attachment: Attachment) -> list[InterfaceStats]:
        """Counters of a pod's interface, at most a second old; empty when it is gone."""
        return self._counters.of_port(self._sock(), attachment.host_interface, attachment.interface)

    async def _watch(self) -> None:
        """Repair bridge and table when somebody removed them; look at others' rules; try a failed set-up again."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH)
            due = time.monotonic() - looked >= _WATCH_OTHERS
            looked = time.monotonic() if due else looked
            try:
                if self._problem:
                    if due:
                        await self._try_set_up()
                    continue
                if not bridge.exists(self._sock(), self._bridge):
                    log.warning("somebody removed our bridge; it comes back", extra={"bridge": self._bridge})
                    await self._try_set_up()
                with netlink.Socket(netlink.NETFILTER) as sock:
                    whole = nft.has_table(sock, self._table)
                if not whole:
                    log.warning("somebody removed our nftables table; it comes back", extra={"table": self._table})
                if not whole or self._table_is_stale:
                    await self._write_table()
                if due:
                    self._look_at_others()
            except (OSError, RopewalkError) as error:
                log.warning("cannot look after the packet filter", extra={"error": str(error)})

    def _look_at_others(self) -> None:
        """What others do to our packets. A look that fails (EAGAIN: a table changed meanwhile) tells nothing."""
        try:
            with netlink.Socket(netlink.NETFILTER) as sock:
                blocked = firewall.forward_blocks(sock, nft.base_chains(sock), self._bridge)
        except OSError as error:
            log.warning("cannot look at other people's packet filters", extra={"error": str(error)})
            return
        for what in blocked:
            if what not in self._blocked:
                log.warning("pods may be cut off from outside: %s", what)
        self._blocked = blocked

    async def _reap(self) -> None:
        """Give addresses back as their links go; delete a link that something holds."""
        while True:
            await self._left.wait()
            self._left.clear()
            while self._leaving:
                await asyncio.sleep(_GONE_AFTER)
                await self._reap_once()

    async def _reap_once(self, *, stuck_after: float = _STUCK_AFTER) -> None:
        now = time.monotonic()
        stuck = []
        try:
            for pod_id, leaving in list(self._leaving.items()):
                name = leaving.attachment.host_interface
                if not bridge.exists(self._sock(), name):
                    self._release(pod_id)
                elif now - leaving.since > stuck_after:
                    stuck.append(name)
                    leaving.since = now
            await bridge.delete(stuck)
        except OSError as error:
            log.warning("cannot delete links", extra={"links": stuck, "error": str(error)})

    def _sock(self) -> netlink.Socket:
        """The socket for the node's links, opened at the first use."""
        if self._socket is None:
            self._socket = netlink.Socket()
        return self._socket


def _report(task: asyncio.Task[None]) -> None:
    """None of the tasks ends by itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the network's background work ended", exc_info=error)
