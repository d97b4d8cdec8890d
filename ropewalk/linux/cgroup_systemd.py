"""The systemd driver: containers live in scopes, pods in slices, and systemd knows of both.

A unit's cgroup is where its name says (systemd.slice(5)): "a-b.slice" is /a.slice/a-b.slice, and a scope is in its
slice's. So everything else goes on working with cgroup paths, and a path tells by its last part which driver made it:
a daemon whose setting was changed still finds and removes what is there. The OCI runtime asks systemd for the scope;
here is only what is left to say to it, by its own systemctl.
"""

from __future__ import annotations

import os
import re

from ropewalk import errors
from ropewalk.linux import cgroup_v2, spawn
from ropewalk.spec import pod

SYSTEMD, CGROUPFS = "systemd", "cgroupfs"
BOOTED = "/run/systemd/system"  # sd_booted(3)
PREFIX = "ropewalk"  # of scopes
SECONDS = 20.0  # for one word to systemd
STOPPING = "stopping"  # systemctl(1), is-system-running

UNIFIED = {
    "cpu.weight": "CPUWeight",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.max": "MemoryMax",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
}  # cgroup files by the property whose value is written the same way, but for "no limit"
_SLICE = re.compile(r"[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*\.slice\Z", re.ASCII)


def is_booted() -> bool:
    """Whether systemd is this machine's init."""
    return os.path.isdir(BOOTED)


def choose(wanted: str, *, version: int, booted: bool) -> str:
    """The driver for the setting `wanted` ("auto", "systemd", "cgroupfs"). Auto is what kubeadm's and the kubelet's
    defaults are made for: systemd where it owns a cgroup v2 hierarchy, which must have one owner only."""
    if wanted == "auto":
        return SYSTEMD if booted and version == 2 else CGROUPFS
    if wanted == SYSTEMD and not booted:
        raise errors.Invalid(
            f'cgroup_driver is "{SYSTEMD}", and systemd is not the init of this machine ({BOOTED} is missing)',
            hint=f'set cgroup_driver = "{CGROUPFS}", and cgroupDriver: {CGROUPFS} for the kubelet',
        )
    return wanted


def unit(path: str) -> str:
    """The name of the unit whose cgroup this is, if it is one."""
    return path.rstrip("/").rpartition("/")[2]


def is_slice(path: str) -> bool:
    return path.endswith(".slice")


def is_scope(path: str) -> bool:
    return path.endswith(".scope")


def parse_slice(parent: str) -> str:
    """The path of the slice that a cgroup parent names: "a-b.slice", or its whole path, as the kubelet gives it.
    Invalid if it is no slice's."""
    own = unit(parent)
    if not _SLICE.match(own):
        raise errors.Invalid(f"cgroup parent {parent[:200]!r} is not a slice")
    parts = own.removesuffix(".slice").split("-")
    path = "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))
    if "/" in parent.strip("/") and path.strip("/") != parent.strip("/"):
        raise errors.Invalid(f"cgroup parent {parent[:200]!r} is not where systemd has {own}", hint=f"that is {path}")
    return path


def own_slice(instance: str, pod: str = "") -> str:
    """The path of an instance's slice, or of that of `pod` in it. A dash would be a level: two instances share none."""
    base = instance.replace("-", "_")
    return f"/{base}.slice" + (f"/{base}-{pod}.slice" if pod else "")


def child(parent: str, id: str) -> str:
    """The path of container `id`'s cgroup in the one at `parent`: a scope in a slice."""
    return f"{parent}/{PREFIX}-{id}.scope" if is_slice(parent) else f"{parent}/{id}"


def name(path: str) -> str:
    """The id of the container whose cgroup this is."""
    return unit(path).removeprefix(f"{PREFIX}-").removesuffix(".scope") if is_scope(path) else unit(path)


def runtime_path(path: str) -> str:
    """A scope as OCI runtimes with --systemd-cgroup take it: "slice:prefix:name"."""
    return f"{unit(path.rpartition('/')[0])}:{PREFIX}:{name(path)}"


def properties(resources: pod.LinuxContainerResources) -> list[str]:
    """What systemd must know of new limits, as systemctl(1) set-property takes it: it writes its own idea of them at
    every daemon-reload. What it has no property for, it leaves alone; of a quota it keeps hundredths of a percent.
    These are cgroup v2's names, which it translates where it has v1."""
    found: list[str] = []
    if resources.cpu_shares:
        found.append(f"CPUWeight={cgroup_v2.weight(resources.cpu_shares)}")
    if resources.cpu_quota > 0:
        found.append(f"CPUQuota={resources.cpu_quota * 100 / (resources.cpu_period or 100_000):.2f}%")
    elif resources.cpu_quota < 0:
        found.append("CPUQuota=")
    if resources.cpu_period:
        found.append(f"CPUQuotaPeriodSec={resources.cpu_period}us")
    memory, total = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    if memory:
        found.append(f"MemoryMax={_bytes(memory)}")
    if memory or total:
        found.append(f"MemorySwapMax={_bytes(-1 if min(memory, total) < 0 else max(total - memory, 0))}")
    if resources.cpuset_cpus:
        found.append(f"AllowedCPUs={resources.cpuset_cpus}")
    if resources.cpuset_mems:
        found.append(f"AllowedMemoryNodes={resources.cpuset_mems}")
    found += [f"{UNIFIED[key]}={_last(value)}" for key, value in resources.unified.items() if key in UNIFIED]
    return found


def _last(value: str) -> str:
    return "infinity" if value.strip() == "max" else value.strip()


def _bytes(value: int) -> str:
    return str(value) if value >= 0 else "infinity"


async def set_properties(path: str, resources: pod.LinuxContainerResources) -> None:
    """Tell systemd of a scope's new limits, until it ends."""
    found = properties(resources)
    if found:
        await _systemctl("set-property", "--runtime", unit(path), *found)


async def stop(path: str) -> None:
    """Stop a slice of ours: systemd forgets it, and removes what is empty of its cgroup. Absent is fine."""
    if is_booted():
        await _systemctl("stop", unit(path))


async def is_going_down() -> bool:
    """Whether systemd is stopping everything for a reboot or power-off. Its exit code is not 0 then."""
    if not is_booted():
        return False
    completed = await spawn.run(["systemctl", "is-system-running"], timeout=SECONDS)
    return completed.stdout.decode().strip() == STOPPING


async def _systemctl(verb: str, *arguments: str) -> None:
    completed = await spawn.run(["systemctl", "--quiet", "--no-ask-password", verb, *arguments], timeout=SECONDS)
    if completed.code:
        said = completed.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise errors.RopewalkError(f"systemctl {verb} {arguments[-1]}: {said or f'exit code {completed.code}'}")
