"""What a working OCI runtime can do on this node beyond the ordinary, found out by doing it.

A runtime that does not know an option may ignore it, and a kernel may refuse what a runtime knows: so nothing is
concluded from versions.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator

from msgspec import structs

from ropewalk.errors import RopewalkError
from ropewalk.linux import libc, mount, thread
from ropewalk.runtimes import trial
from ropewalk.runtimes.drivers import idmap
from ropewalk.runtimes.handler import Capabilities, Task
from ropewalk.storage import snapshotter

MAPPED = 65536  # the first of the node's ids that the probe's namespace uses, and how many
OWNED = ("network", "ipc", "uts")
PROC_NAMES = {"network": "net"}  # where /proc/PID/ns says it differently


async def measure(driver: trial.Subject, capabilities: Capabilities) -> tuple[Capabilities, str]:
    """`capabilities` with what was found, and a sentence of evidence."""
    read_only = await _reason(_recursive_read_only(driver))
    users = await _reason(_user_namespaces(driver))
    found = structs.replace(capabilities, recursive_read_only=not read_only, user_namespaces=not users)
    shown = (("recursive read-only mounts", read_only), ("user namespaces", users))
    return found, "; ".join(f"{what}: {f'no, {why}' if why else 'yes'}" for what, why in shown)


async def _reason(trial: contextlib.AbstractAsyncContextManager[str]) -> str:
    """What a trial says is wrong, "" for nothing."""
    try:
        async with trial as problem:
            return problem
    except (RopewalkError, OSError) as error:
        return str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def _recursive_read_only(driver: trial.Subject) -> AsyncIterator[str]:
    """/sys has mounts below it wherever there are control groups."""
    spec = trial.build_spec()
    mounts = [{"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "rprivate", "rro"]}]
    async with trial.running(driver, {**spec, "mounts": [*spec["mounts"], *mounts]}) as task:
        below = [one for one in mount.mounts(f"/proc/{task.pid}/mountinfo") if one.target.startswith("/sys/")]
        writable = [one.target for one in below if "ro" not in one.options.split(",")]
        yield f"{writable[0]} stayed writable" if writable else "" if below else "nothing is mounted below /sys"


@contextlib.asynccontextmanager
async def _user_namespaces(driver: trial.Subject) -> AsyncIterator[str]:
    """A container with a user namespace, a second one that joins it, as those of a pod do, and an overlay of mapped
    layers on the file system that has the images'."""
    own = [{"type": kind} for kind in ("user", "mount", "pid", *OWNED)]
    async with trial.running(driver, user_spec(own)) as holder:
        joined = [{"type": kind, "path": namespace_path(holder, kind)} for kind in ("user", *OWNED)]
        async with trial.running(driver, user_spec([*joined, {"type": "mount"}, {"type": "pid"}])) as member:
            inside = [os.readlink(f"/proc/{task.pid}/ns/user") for task in (holder, member)]
            if inside[0] != inside[1] or inside[0] == os.readlink("/proc/self/ns/user"):
                yield "the containers are not in one namespace of their own"
                return
        yield try_layers(driver.node.layers or driver.node.state, namespace_path(holder, "user"))


def namespace_path(task: Task, kind: str) -> str:
    return f"/proc/{task.pid}/ns/{PROC_NAMES.get(kind, kind)}"


def user_spec(namespaces: list[dict[str, str]]) -> dict[str, object]:
    spec = trial.build_spec()
    ranges = [{"containerID": 0, "hostID": MAPPED, "size": MAPPED}]
    mounts = [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev"]}]
    linux = {"namespaces": namespaces, "uidMappings": ranges, "gidMappings": ranges}
    return {**spec, "mounts": [*spec["mounts"], *mounts], "linux": linux}


def try_layers(directory: str, userns: str) -> str:
    """Whether an overlay of idmapped layers can be made in `directory`; "" if so. In a mount namespace of its own,
    which ends with its thread: a kill leaves no mount."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as place:
        for name in ("layer", "layer/file", "upper", "work", "rootfs"):
            os.mkdir(f"{place}/{name}")

        def body() -> int:
            mount.set_propagation("/", "rprivate")
            one = snapshotter.Mount("overlay", layers=[f"{place}/layer"], upper=f"{place}/upper", work=f"{place}/work")
            idmap.mount_rootfs(one, f"{place}/rootfs", f"{place}/lower", userns)
            return os.stat(f"{place}/rootfs/file").st_uid

        owner = thread.apart(body, unshare=libc.CLONE_NEWNS)
    return "" if owner == MAPPED else f"a mapped file belongs to user {owner}, not to {MAPPED}"
