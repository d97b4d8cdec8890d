"""Addresses: which subnet the pods of this instance live in, and which address is free. Pure: no kernel, no clock."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable

from ropewalk.errors import Invalid, Kind, RopewalkError

Net = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT = ipaddress.IPv4Network("10.88.0.0/16")
SPARE = ipaddress.IPv4Network("10.128.0.0/9")  # other instances take blocks of it
SPARE_PREFIX = 20
UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")  # RFC 4193
NO_IPV6 = "none"


class Exhausted(RopewalkError):
    kind = Kind.EXHAUSTED


class Range:
    """The addresses of one subnet. The first is the gateway's; the next one free after the last given is given next,
    so that an address rests as long as possible before its next use."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.gateway = net[1]
        self._first = int(net.network_address) + 2
        broadcast = 1 if net.version == 4 else 0
        self._last = int(net.broadcast_address) - broadcast
        self._next = self._first
        self._taken: set[int] = set()

    def take(self) -> Address:
        """A free address. EXHAUSTED if there is none."""
        if len(self._taken) > self._last - self._first:
            raise Exhausted(
                f"all {len(self._taken)} addresses of the pod subnet {self.net} are in use",
                hint="remove pods, or set network.subnet to a larger one",
            )
        while self._next in self._taken or self._next > self._last:
            self._next = self._next + 1 if self._next < self._last else self._first
        self._taken.add(self._next)
        self._next += 1
        return type(self.gateway)(self._next - 1)

    def reserve(self, address: Address) -> None:
        """Take this one. One outside the range, or the gateway's, needs no reservation."""
        if self._first <= int(address) <= self._last:
            self._taken.add(int(address))

    def release(self, address: Address) -> None:
        self._taken.discard(int(address))


def parse_subnet(text: str, *, version: int, name: str) -> Net:
    """A subnet that can hold a gateway and a pod. Invalid names the setting and says what is wrong with it."""
    try:
        net = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise Invalid(f"{name} {text!r} is not a subnet: {error}", hint="for example 10.88.0.0/16") from error
    if net.version != version:
        raise Invalid(f"{name} {text!r} is not an IPv{version} subnet")
    if net.prefixlen > net.max_prefixlen - 2:
        raise Invalid(f"{name} {text!r} has no room for pods", hint=f"a prefix of /{net.max_prefixlen - 2} or shorter")
    return net


def parse_pod_cidr(cidr: str) -> tuple[Net | None, Net | None]:
    """UpdateRuntimeConfig.pod_cidr: one subnet, or an IPv4 and an IPv6 one separated by a comma."""
    found: dict[int, Net] = {}
    for part in filter(None, (part.strip() for part in cidr.split(","))):
        net = parse_subnet(part, version=6 if ":" in part else 4, name="pod CIDR")
        if net.version in found:
            raise Invalid(f"pod CIDR {cidr!r} has two IPv{net.version} subnets", hint="give one of each family")
        found[net.version] = net
    return found.get(4), found.get(6)


def plan_subnet(tag: str, routed: Iterable[Net], *, default: bool) -> ipaddress.IPv4Network:
    """An IPv4 subnet that nothing on this node is routed to. `default`: this is the node's default instance, which
    takes 10.88.0.0/16 if it can. The others, and it too if that is routed, take a /20 at a place that `tag` gives, so
    that an instance tends to keep it."""
    taken = [net for net in routed if net.version == 4 and net.prefixlen > 0]
    if default and not any(DEFAULT.overlaps(net) for net in taken):
        return DEFAULT
    blocks = 1 << (SPARE_PREFIX - SPARE.prefixlen)
    start = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:4], "big")
    size = 1 << (32 - SPARE_PREFIX)
    for step in range(blocks):
        base = int(SPARE.network_address) + (start + step) % blocks * size
        block = ipaddress.IPv4Network((base, SPARE_PREFIX))
        if not any(block.overlaps(net) for net in taken):
            return block
    raise Exhausted(f"every /{SPARE_PREFIX} of {SPARE} is routed on this node already", hint="set network.subnet")


def plan_subnet6(instance: str) -> ipaddress.IPv6Network:
    """The instance's unique local /64 (RFC 4193), always the same."""
    digest = hashlib.sha256(f"ropewalk pods of {instance}".encode()).digest()
    return ipaddress.IPv6Network((bytes((0xFD,)) + digest[:5] + bytes(10), 64))


def hardware_address(address: Address) -> bytes:
    """The hardware address of whoever has this address: locally administered, and the same at each use of the
    address, so that no neighbour's cache is ever wrong about it."""
    return b"\x02\x52" + address.packed[-4:]
