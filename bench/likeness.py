"""Whether both products do like work: the containers they run are compared before anything is timed.

Two witnesses each: the OCI spec that the product gave its runtime (verbose ContainerStatus, info.runtimeSpec), and the
kernel's view of the payload (/proc/PID/status, /proc/PID/ns).

May differ, and is only noted: the number of system calls in the seccomp filter within SECCOMP_TOLERANCE (each product
has its own default profile; Ropewalk's also names socket families); a namespace that the spec names although it is the
node's (containerd does that on the node's network; what counts is what the kernel says); mounts. That a pause process
exists on one side only is the products' choice, and part of what is measured.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.kubelet import Pod
from bench.side import Side
from ropewalk.wire.pb import cri_pb2 as pb

SECCOMP_TOLERANCE = 0.25
KERNEL = ("Seccomp", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


class Facts(Struct, frozen=True):
    """What one container runs under."""

    seccomp_action: str
    seccomp_calls: int
    capabilities: dict[str, list[str]]
    namespaces: list[str]
    no_new_privileges: bool
    masked: list[str]
    read_only: list[str]
    mounts: list[str]
    kernel: dict[str, str]  # KERNEL of /proc/PID/status
    own: list[str]  # NAMESPACES that are not the node's


def build(spec: dict[str, Any], kernel: dict[str, str], own: list[str]) -> Facts:
    """`spec` is an OCI runtime spec."""
    process, linux = spec["process"], spec["linux"]
    seccomp = linux.get("seccomp") or {}
    allowed = (rule for rule in seccomp.get("syscalls", []) if rule["action"] == "SCMP_ACT_ALLOW")
    sets = (process.get("capabilities") or {}).items()
    return Facts(
        seccomp_action=seccomp.get("defaultAction", "none"),
        seccomp_calls=len({name for rule in allowed for name in rule["names"]}),
        capabilities={name: sorted(values) for name, values in sorted(sets) if values},
        namespaces=sorted(namespace["type"] for namespace in linux["namespaces"]),
        no_new_privileges=bool(process.get("noNewPrivileges")),
        masked=sorted(linux.get("maskedPaths") or []),
        read_only=sorted(linux.get("readonlyPaths") or []),
        mounts=sorted(mount["destination"] for mount in spec["mounts"]),
        kernel=kernel,
        own=own,
    )


def read(side: Side, pod: Pod) -> Facts:
    request = pb.ContainerStatusRequest(container_id=pod.containers[0], verbose=True)
    info = json.loads(side.kubelet.call("ContainerStatus", request).info["info"])
    lines = Path(f"/proc/{info['pid']}/status").read_text().splitlines()
    kernel = {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name in KERNEL}
    own = [
        name
        for name in NAMESPACES
        if os.readlink(f"/proc/{info['pid']}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    ]
    return build(info["runtimeSpec"], kernel, own)


def compare(ours: Facts, theirs: Facts) -> tuple[list[str], list[str]]:
    """(differences in kind, differences that are only noted), each naming both values."""
    differences, notes = [], []
    for name in ("seccomp_action", "capabilities", "no_new_privileges", "masked", "read_only", "own"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if a != b:
            differences.append(f"{name}: {a} and {b}")
    for name in KERNEL:
        if ours.kernel.get(name) != theirs.kernel.get(name):
            differences.append(f"kernel {name}: {ours.kernel.get(name)} and {theirs.kernel.get(name)}")
    calls = sorted((ours.seccomp_calls, theirs.seccomp_calls))
    text = f"seccomp allows {ours.seccomp_calls} and {theirs.seccomp_calls} system calls"
    if calls[1] * (1 - SECCOMP_TOLERANCE) > calls[0]:
        differences.append(text)
    elif calls[0] != calls[1]:
        notes.append(text)
    if ours.namespaces != theirs.namespaces:
        notes.append(f"namespaces in the spec: {', '.join(ours.namespaces)} and {', '.join(theirs.namespaces)}")
    if odd := sorted(set(ours.mounts) ^ set(theirs.mounts)):
        notes.append(f"mounted on one side only: {', '.join(odd)}")
    return differences, notes


def observe(side: Side) -> dict[str, Facts]:
    """By network: what a container of a new pod runs under. The pod is gone afterwards."""
    found = {}
    for network, host_network in (("host", True), ("bridge", False)):
        pod = side.kubelet.pod(host_network=host_network)
        pod.run()
        pod.start()
        found[network] = read(side, pod)
        pod.settle()
        pod.remove()
        pod.forget()
    return found
