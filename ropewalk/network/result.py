"""What ADD gave, read for what a pod's row keeps (CNI specification 1.1.0, section 5; the same since 0.3.0)."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from msgspec import Struct

from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import conflist


class Interface(Struct, frozen=True):
    """`sandbox`: the namespace that it is in, "" for the node."""

    name: str = ""
    mac: str = ""
    sandbox: str = ""


class Address(Struct, frozen=True):
    """`interface`: index in the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


class Result(Struct, frozen=True):
    """Plugins written in Go may say null for an empty list."""

    interfaces: list[Interface] | None = None
    ips: list[Address] | None = None

    def of(self, interface: str) -> list[Address]:
        """The addresses of the pod's `interface`, IPv4 first: those that say so or do not say whose they are; if there
        are none, those of any interface inside. Raises if the pod would have no address."""
        everywhere = self.ips or []
        inside = [ip for ip in everywhere if (own := self._owner(ip)) is None or own.sandbox]
        chosen = [ip for ip in inside if (own := self._owner(ip)) is None or own.name == interface] or inside
        if not chosen:
            raise RopewalkError(f"the CNI plugins gave no address for {interface}: {len(everywhere)} in their result")
        return sorted(chosen, key=lambda ip: ipaddress.ip_interface(ip.address).version)

    def _owner(self, address: Address) -> Interface | None:
        known = self.interfaces or []
        return known[address.interface] if address.interface is not None and address.interface < len(known) else None

    def mac(self, interface: str) -> str:
        return next((own.mac for own in self.interfaces or [] if own.sandbox and own.name == interface), "")

    def on_node(self, name: str) -> bool:
        return any(own.name == name and not own.sandbox for own in self.interfaces or [])


def check(said: bytes, *, version: str) -> bytes:
    """A plugin's answer to ADD, with the version that it was asked in if it names none. Raises if it is no result."""
    try:
        whole = msgspec.json.decode(said, type=dict[str, Any])
        parse(said)
        return said if whole.get("cniVersion") else msgspec.json.encode({**whole, "cniVersion": version})
    except conflist.UNREADABLE as error:
        shown = said[:200].decode(errors="replace")
        raise RopewalkError(f"it answered {shown!r}, which is no CNI result: {error}", kind=Kind.INTERNAL) from error


def parse(said: bytes) -> Result:
    """DecodeError for what is no result."""
    result = msgspec.json.decode(said, type=Result)
    for ip in result.ips or []:
        try:
            ipaddress.ip_interface(ip.address)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error
    return result
