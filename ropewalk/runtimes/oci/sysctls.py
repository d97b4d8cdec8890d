"""Sysctls of a pod: only those that belong to a namespace of its own (contract 6.11, peers T19).

A name with "/" would be another path below /proc/sys, and one string must stay one setting (CVE-2022-0811).
"""

from __future__ import annotations

import re

from ropewalk import errors
from ropewalk.spec.pod import NamespaceMode, PodSpec

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+\Z", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e\t]{0,4096}\Z")
_IPC = ("kernel.shm", "kernel.msg", "fs.mqueue.")

UNPRIVILEGED_PORTS = "net.ipv4.ip_unprivileged_port_start"


def build(pod: PodSpec) -> dict[str, str]:
    """What to write in the pod's namespaces. A network of the pod's own lets everybody ping and bind low ports from
    the beginning (network/netns.py), but not one that its user namespace owns: there low ports are opened here, and a
    range of groups beyond the map would be refused by the kernel."""
    check(pod)
    defaults = {UNPRIVILEGED_PORTS: "0"} if pod.own_users and not pod.host_network else {}
    return {**defaults, **pod.linux.sysctls}


def check(pod: PodSpec) -> None:
    for name, value in pod.linux.sysctls.items():
        if not _NAME.match(name) or not _VALUE.match(value):
            raise errors.Invalid(
                f"linux.sysctls has {name[:80]!r} = {value[:80]!r}",
                hint="names are words joined by dots, values are one line of ASCII",
            )
        _check_namespace(pod, name)


def _check_namespace(pod: PodSpec, name: str) -> None:
    if name.startswith("net."):
        kind = "network"
    elif name.startswith(_IPC) or name == "kernel.sem":
        kind = "ipc"
    else:
        raise errors.Invalid(
            f"linux.sysctls has {name!r}, which belongs to no namespace of a pod",
            hint="kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* do",
        )
    if getattr(pod.namespaces, kind) is NamespaceMode.NODE:
        raise errors.Invalid(
            f"linux.sysctls has {name!r}, and the pod's {kind} namespace is the node's",
            hint=f"set it on the node, or do not ask for the node's {kind}",
        )
