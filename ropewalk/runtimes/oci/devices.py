"""Device nodes and the device cgroup: nothing is allowed but what is listed (runtime-spec config-linux.md)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import Any

from ropewalk import errors
from ropewalk.runtimes.oci.facts import HostDevice
from ropewalk.spec.container import Device

# The nodes that every runtime makes by itself, with the terminals: allowed here too, so that the rules are complete.
DEFAULT = (
    ("c", 1, 3),  # null
    ("c", 1, 5),  # zero
    ("c", 1, 7),  # full
    ("c", 1, 8),  # random
    ("c", 1, 9),  # urandom
    ("c", 5, 0),  # tty
    ("c", 5, 1),  # console
    ("c", 5, 2),  # ptmx
    ("c", 136, None),  # pts/*
)
_OWN = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console", "/dev/ptmx")
_OWN_TREES = ("/dev/pts/", "/dev/shm/", "/dev/mqueue/", "/dev/fd/")


def rules(devices: Sequence[HostDevice], *, privileged: bool) -> list[dict[str, Any]]:
    """linux.resources.devices: deny everything, then allow. Privileged allows everything."""
    if privileged:
        return [{"allow": True, "access": "rwm"}]
    result: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for type, major, minor in DEFAULT:
        rule = {"allow": True, "type": type, "major": major, "access": "rwm"}
        result.append(rule if minor is None else {**rule, "minor": minor})
    for device in devices:
        if device.type != "p":
            where = {"type": device.type, "major": device.major, "minor": device.minor}
            result.append({"allow": True, **where, "access": device.permissions})
    return result


def nodes(devices: Sequence[HostDevice]) -> list[dict[str, Any]]:
    """linux.devices, without those that the runtime makes; of two with one path the last wins."""
    by_path = {device.path: _node(device) for device in devices if not made_by_runtime(device.path)}
    return [by_path[path] for path in sorted(by_path)]


def made_by_runtime(path: str) -> bool:
    return path in _OWN or path.startswith(_OWN_TREES)


def check(device: Device) -> None:
    for field, path in (("container_path", device.container_path), ("host_path", device.host_path)):
        if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise errors.Invalid(f"a device has {field} {path[:200]!r}", hint="an absolute path without .. is needed")
    if set(device.permissions) - set("rwm"):
        raise errors.Invalid(
            f"device {device.host_path} has permissions {device.permissions[:20]!r}", hint="letters of rwm are needed"
        )


def type_of(mode: int) -> str:
    """st_mode -> "c", "b", "p", or "" for what is no device."""
    if stat.S_ISCHR(mode):
        return "c"
    if stat.S_ISBLK(mode):
        return "b"
    return "p" if stat.S_ISFIFO(mode) else ""


def _node(device: HostDevice) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }
