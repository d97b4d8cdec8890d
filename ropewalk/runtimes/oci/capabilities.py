"""Capability sets from add and drop lists (contract 6.7, capabilities(7))."""

from __future__ import annotations

from collections.abc import Iterable

from ropewalk import errors
from ropewalk.linux import caps
from ropewalk.spec.container import Capability

KNOWN = frozenset(caps.NAMES)

# What a container has when it asks for nothing: containerd's and Docker's set, so images behave the same here.
_DEFAULT = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
    AUDIT_WRITE
"""
DEFAULT = frozenset(f"CAP_{name}" for name in _DEFAULT.split())


def parse_name(name: str) -> str:
    """ "net_admin", "NET_ADMIN", "CAP_NET_ADMIN" -> "CAP_NET_ADMIN"; "all" -> "ALL"."""
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in KNOWN:
        raise errors.Invalid(
            f"linux.security_context.capabilities names {name!r}, which is no capability",
            hint="use a name of capabilities(7) without CAP_, or ALL",
        )
    return full


def allowed(capability: Capability, *, privileged: bool, bounding: frozenset[str]) -> frozenset[str]:
    """The bounding set: ALL of either list first, then single adds, then single drops; never more than `bounding`.

    Privileged containers get everything the daemon has. Ambient ones are added too, since the kernel demands it.
    """
    add = {parse_name(name) for name in capability.add_capabilities}
    drop = {parse_name(name) for name in capability.drop_capabilities}
    ambient = {parse_name(name) for name in capability.add_ambient_capabilities}
    if privileged:
        return bounding
    base = set(DEFAULT)
    if "ALL" in add or "ALL" in ambient:
        base = set(bounding)
    if "ALL" in drop:
        base = set()
    return frozenset((base | add | ambient) - drop) & bounding


def sets(capability: Capability, *, privileged: bool, bounding: frozenset[str], uid: int) -> dict[str, list[str]]:
    """process.capabilities. Inheritable is empty (CVE-2022-24769) but for ambient ones, which need it (prctl(2)).

    A process that is not root has none at once, as after execve(2); files with capabilities may raise them.
    """
    limit = allowed(capability, privileged=privileged, bounding=bounding)
    asked = {parse_name(name) for name in capability.add_ambient_capabilities}
    ambient = limit if "ALL" in asked else limit & asked
    held = limit if uid == 0 else ambient
    return {
        "bounding": sorted(limit),
        "effective": sorted(held),
        "permitted": sorted(held),
        "inheritable": sorted(ambient),
        "ambient": sorted(ambient),
    }


def missing(capability: Capability, bounding: frozenset[str]) -> list[str]:
    """Capabilities that were asked for by name and that this daemon itself does not have."""
    return sorted(_named([*capability.add_capabilities, *capability.add_ambient_capabilities]) - bounding)


def _named(names: Iterable[str]) -> set[str]:
    return {parse_name(name) for name in names} - {"ALL"}
