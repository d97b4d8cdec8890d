"""A container in a systemd scope: what its runtime spec says of it, for runtimes that are given --systemd-cgroup.

`org.systemd.property.NAME` is a property of the scope, in D-Bus' text format (crun(1), runc's docs/systemd.md). Only
what is here reaches the spec: annotations of pods pass an allow list (T19).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.linux import cgroup_systemd

FLAG = "--systemd-cgroup"
PROPERTY = "org.systemd.property."


def place(spec: dict[str, Any], path: str) -> dict[str, Any]:
    """`spec` for the cgroup `path`: as it is, unless that is a scope."""
    if not cgroup_systemd.is_scope(path):
        return spec
    linux: dict[str, Any] = {**spec["linux"], "cgroupsPath": cgroup_systemd.runtime_path(path)}
    annotations = {**spec.get("annotations", {}), **properties(linux.get("resources", {}))}
    return {**spec, "linux": linux, "annotations": annotations}


def properties(resources: Mapping[str, Any]) -> dict[str, str]:
    """crun would put the processes into a cgroup below the scope, where runc does not. A scope that failed (of the OOM
    killer, say) is forgotten like any other. A swap limit of 0 is one: runc 1.1 tells systemd only of others, which
    then lifts it at the next daemon-reload."""
    found = {"run.oci.systemd.subgroup": "", f"{PROPERTY}CollectMode": "'inactive-or-failed'"}
    memory = resources.get("memory", {})
    limit, total = memory.get("limit", 0), memory.get("swap", 0)
    if 0 < limit <= total:
        found[f"{PROPERTY}MemorySwapMax"] = f"uint64 {total - limit}"
    return found


def flags(path: str) -> list[str]:
    """The runtime's global flags for a container in the cgroup `path`."""
    return [FLAG] if cgroup_systemd.is_scope(path) else []
