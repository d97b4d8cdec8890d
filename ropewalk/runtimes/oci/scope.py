"""A container in a systemd scope: what its runtime spec says of it, for runtimes that are given --systemd-cgroup.

`org.systemd.property.NAME` is a property of the scope, in D-Bus' text format (crun(1), runc's docs/systemd.md). Only
what is here reaches the spec: annotations of pods pass an allow list (T19).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.linux import cgroup_systemd, cgroup_v2

FLAG = "--systemd-cgroup"
PROPERTY = "org.systemd.property."
DEFAULT_PERIOD = 100_000  # microseconds, the kernel's


def place(spec: dict[str, Any], path: str) -> dict[str, Any]:
    """`spec` for the cgroup `path`: as it is, unless that is a scope."""
    if not cgroup_systemd.is_scope(path):
        return spec
    linux: dict[str, Any] = {**spec["linux"], "cgroupsPath": cgroup_systemd.runtime_path(path)}
    resources = linux.get("resources", {})
    if "cpu.weight" in resources.get("unified", {}):
        linux["resources"] = without_shares(resources)
    return {**spec, "linux": linux, "annotations": {**spec.get("annotations", {}), **properties(resources)}}


def without_shares(resources: Mapping[str, Any]) -> dict[str, Any]:
    """There is a weight: of the shares a runtime would make one of its own, and tell systemd that."""
    cpu = {name: value for name, value in resources.get("cpu", {}).items() if name != "shares"}
    return {**resources, "cpu": cpu}


def properties(resources: Mapping[str, Any]) -> dict[str, str]:
    """crun would put the processes, and the limits, into a cgroup below the scope, where runc does not. A scope that
    failed is forgotten like any other. At every daemon-reload systemd writes the limits that it knows of, and lifts the
    others: crun 1.8 tells it of few, runc 1.1 not of a swap limit of 0. Those of cpusets both tell."""
    found = {"run.oci.systemd.subgroup": "", f"{PROPERTY}CollectMode": "'inactive-or-failed'"}
    return found | {f"{PROPERTY}{name}": f"uint64 {value}" for name, value in limits(resources).items()}


def limits(resources: Mapping[str, Any]) -> dict[str, int]:
    """Numbers by the property's name (org.freedesktop.systemd1(5))."""
    memory, cpu, pids = (resources.get(kind, {}) for kind in ("memory", "cpu", "pids"))
    found: dict[str, int] = {}
    limit, total = memory.get("limit", 0), memory.get("swap", 0)
    if limit > 0:
        found["MemoryMax"] = limit
        if total >= limit:
            found["MemorySwapMax"] = total - limit
    if cpu.get("shares", 0) > 0:
        found["CPUWeight"] = cgroup_v2.weight(cpu["shares"])
    period = cpu.get("period", 0)
    if cpu.get("quota", 0) > 0:
        found["CPUQuotaPerSecUSec"] = cpu["quota"] * 1_000_000 // (period or DEFAULT_PERIOD)
    if period > 0:
        found["CPUQuotaPeriodUSec"] = period
    if pids.get("limit", 0) > 0:
        found["TasksMax"] = pids["limit"]
    for key, text in resources.get("unified", {}).items():
        if key in cgroup_systemd.UNIFIED and text.strip().isdecimal():
            found[cgroup_systemd.UNIFIED[key]] = int(text)
    return found


def flags(path: str) -> list[str]:
    """The runtime's global flags for a container in the cgroup `path`."""
    return [FLAG] if cgroup_systemd.is_scope(path) else []
