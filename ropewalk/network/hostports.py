"""Host ports: a port of the node that leads to a port of a pod. Pure: who has which, and nftables' words for it.

An element per port in four maps, and never a rule per pod: with and without a given address of the node, IPv4 and
IPv6. An empty `host_ip` means every address of both families, "0.0.0.0" every IPv4 one, "::" every IPv6 one.

IPv4 ports also answer at 127.0.0.1. At ::1 they do not: IPv6 has no route_localnet, so a connection that begins at
::1 cannot leave by the bridge (tried: it times out); it is refused there at once instead, and a client that tries
"localhost" goes on to 127.0.0.1.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.spec.pod import PortMapping, Protocol

MAPS = ("any4", "any6", "at4", "at6")


class PortConflict(RopewalkError):
    """Another pod has the port: the caller must wait for it or use another port."""

    kind = Kind.STATE


class Key(NamedTuple):
    """What a host port matches. `address` is "" for every address of the family."""

    version: int
    protocol: Protocol
    port: int
    address: str


class Entry(NamedTuple):
    """An element of a map: `name` of the map, what it matches and where that leads."""

    map: str
    match: str
    target: str


def parse_mappings(mappings: Iterable[PortMapping], *, ipv6: bool, loopback6: bool = False) -> list[PortMapping]:
    """Those that ask for a host port, each once. Invalid names the one that cannot be: an impossible number or
    address, two targets for one port, an IPv6 address where pods have none, ::1 without `loopback6`."""
    found: dict[Key, PortMapping] = {}
    for mapping in mappings:
        if mapping.host_port == 0:
            continue
        _check(mapping, ipv6=ipv6, loopback6=loopback6)
        for key in keys(mapping):
            clash = _clash(key, found)
            if clash is not None and found[clash].container_port != mapping.container_port:
                raise Invalid(f"port mapping {describe(mapping)} contradicts {describe(found[clash])} of the same pod")
            found[key] = mapping
    return list(dict.fromkeys(found.values()))


def _check(mapping: PortMapping, *, ipv6: bool, loopback6: bool) -> None:
    for name, number in (("host_port", mapping.host_port), ("container_port", mapping.container_port)):
        if not 0 < number < 1 << 16:
            raise Invalid(f"port mapping {describe(mapping)}: {name} is {number}", hint="ports are 1 to 65535")
    if not mapping.host_ip:
        return
    try:
        address = ipaddress.ip_address(mapping.host_ip)
    except ValueError as error:
        raise Invalid(f"port mapping {describe(mapping)}: host_ip {mapping.host_ip!r} is not an address") from error
    if address.version == 6 and not ipv6:
        raise Invalid(f"port mapping {describe(mapping)}: pods have no IPv6 here", hint="set network.subnet6")
    if address.version == 6 and address.is_loopback and not loopback6:
        raise Invalid(
            f"port mapping {describe(mapping)}: a host port cannot be served at ::1 (IPv6 has no route_localnet)",
            hint="use 127.0.0.1",
        )


def describe(mapping: PortMapping) -> str:
    """ "tcp 127.0.0.1:8080 -> 80"."""
    host = f"[{mapping.host_ip}]" if ":" in mapping.host_ip else mapping.host_ip
    return f"{mapping.protocol.name.lower()} {host}:{mapping.host_port} -> {mapping.container_port}"


def keys(mapping: PortMapping) -> list[Key]:
    """What the mapping occupies: one key per family."""
    if not mapping.host_ip:
        return [Key(version, mapping.protocol, mapping.host_port, "") for version in (4, 6)]
    address = ipaddress.ip_address(mapping.host_ip)
    return [
        Key(
            address.version,
            mapping.protocol,
            mapping.host_port,
            "" if address.is_unspecified else str(address),
        )
    ]


def _clash(key: Key, held: Mapping[Key, object]) -> Key | None:
    """The held key that matches a packet that `key` matches too: the same, or one of the two at every address."""
    if key in held:
        return key
    if key.address:
        everywhere = key._replace(address="")
        return everywhere if everywhere in held else None
    return next((other for other in held if other._replace(address="") == key), None)


class Ports:
    """Which pod has which port of the node."""

    def __init__(self) -> None:
        self._held: dict[Key, str] = {}

    def check(self, pod: str, mappings: Iterable[PortMapping]) -> None:
        """PortConflict names the pod that has one of the ports."""
        for mapping in mappings:
            for key in keys(mapping):
                clash = _clash(key, self._held)
                if clash is not None and self._held[clash] != pod:
                    raise PortConflict(
                        f"host port {describe(mapping)} is in use by pod {self._held[clash]}",
                        hint="stop that pod, or ask for another port or host address",
                    )

    def reserve(self, pod: str, mappings: Iterable[PortMapping]) -> None:
        for mapping in mappings:
            for key in keys(mapping):
                self._held[key] = pod

    def holds(self, pod: str) -> bool:
        """Whether the pod has a port."""
        return pod in self._held.values()

    def release(self, pod: str) -> None:
        self._held = {key: owner for key, owner in self._held.items() if owner != pod}


def entries(mappings: Iterable[PortMapping], addresses: Iterable[str]) -> Iterator[Entry]:
    """The elements that lead a pod's host ports to its addresses (without prefix length), one per family it has."""
    ips: dict[int, str] = {ipaddress.ip_address(address).version: address for address in addresses}
    for mapping in mappings:
        for key in keys(mapping):
            target = ips.get(key.version)
            if target is not None:
                port = f"{key.protocol.name.lower()} . {key.port}"
                match = f"{key.address} . {port}" if key.address else port
                where = f"{'at' if key.address else 'any'}{key.version}"
                yield Entry(where, match, f"{target} . {mapping.container_port}")


def add_commands(table: str, elements: Iterable[Entry]) -> str:
    """nft commands, one per map."""
    grouped: dict[str, list[str]] = {}
    for element in elements:
        grouped.setdefault(element.map, []).append(f"{element.match} : {element.target}")
    return "".join(f"add element {table} {name} {{ {', '.join(words)} }}\n" for name, words in grouped.items())


def remove_commands(table: str, elements: Iterable[Entry]) -> str:
    """nft commands that remove elements whether or not they are there: an element that is missing would fail the
    whole transaction, so each is added (no change if it is there) and then deleted."""
    elements = list(elements)
    return add_commands(table, elements) + "".join(
        f"delete element {table} {element.map} {{ {element.match} }}\n" for element in elements
    )


def parse_elements(listing: str) -> list[Entry]:
    """The elements of our maps in what `nft -j list table` prints (libnftables-json(5))."""
    found = []
    for item in msgspec.json.decode(listing)["nftables"]:
        held = item.get("map", {})
        if held.get("name") in MAPS:
            found += [Entry(held["name"], _joined(match), _joined(target)) for match, target in held.get("elem", [])]
    return found


def _joined(value: dict[str, list[str | int]]) -> str:
    """{"concat": ["tcp", 80]} as nft writes it, "tcp . 80"."""
    return " . ".join(map(str, value["concat"]))
