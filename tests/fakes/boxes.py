"""Real containers for tests of handlers: a root file system of static busybox, plans, and a look for what was left.

Everything lies in one temporary state directory and below one cgroup, both private to the test. Where a daemon would
choose the systemd driver, so does this.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import Any

from msgspec import structs

from ropewalk import ids
from ropewalk.linux import cgroup, cgroup_systemd, mount, process
from ropewalk.pods import placement
from ropewalk.runtimes import handler, trial
from ropewalk.runtimes.handler import ContainerPlan, ExecResult, Handler, PodPlan, Task
from ropewalk.spec.pod import PodSpec
from ropewalk.storage.snapshotter import Mount
from tools import trace

BUSYBOX = "/bin/busybox"
PROGRAMS = (
    "sh",
    "sleep",
    "echo",
    "true",
    "cat",
    "kill",
    "seq",
    "dd",
    "head",
    "ls",
    "setsid",
    "test",
    "tail",
    "yes",
    "stty",
    "uname",
    "touch",
)
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")


class Place:
    """One node's worth of state for one test."""

    def __init__(self, directory: Path) -> None:
        self.state = str(directory / "state")
        self.image = str(directory / "image")
        self.logs = str(directory / "logs")
        self.snapshots = str(directory / "snapshots")
        self.cgroups = cgroup.detect()
        self.cgroups.driver = cgroup_systemd.choose(
            "auto", version=self.cgroups.version, booted=cgroup_systemd.is_booted()
        )
        self.cgroup = placement.root(f"{trace.own_names()}{os.urandom(3).hex()}", self.cgroups.driver)
        self.node = handler.Node(self.state, self.cgroups, cgroup=self.cgroup)
        for path in (self.state, self.logs, self.snapshots):
            os.makedirs(path)
        make_image(self.image)

    def plan(self, *args: str, id: str = "", log: bool = True, **options: Any) -> ContainerPlan:
        """A container that runs `args`. Options: `process` and `linux` are merged into those of the spec, `namespaces`
        replaces the namespaces; the rest are fields of the plan."""
        id = id or ids.new_id()
        path = cgroup_systemd.child(self.cgroup, id)
        upper, work = f"{self.snapshots}/{id}/upper", f"{self.snapshots}/{id}/work"
        os.makedirs(upper)
        os.makedirs(work)
        spec = build_spec(list(args), path, options.pop("namespaces", NAMESPACES))
        spec["process"] |= {"terminal": options.get("tty", False), **options.pop("process", {})}
        spec["linux"] |= options.pop("linux", {})
        return ContainerPlan(
            id=id,
            pod_id=options.pop("pod_id", "pod"),
            spec=spec,
            rootfs=[Mount(type="overlay", layers=[self.image], upper=upper, work=work)],
            cgroup=path,
            monitor_cgroup=f"{self.cgroup}/monitors",
            log_path=options.pop("log_path", f"{self.logs}/{id}/0.log" if log else ""),
            **options,
        )

    def found(self) -> list[str]:
        """What is left: mounts, processes, cgroups, files of containers."""
        left = [one.target for one in mount.mounts() if self.state in one.target]
        needle = os.fsencode(self.state)
        for pid in process.pids():
            if any(needle in argument for argument in process.command_line(pid)):
                left.append(f"{pid} {process.command_line(pid)!r}")
        left += [path for path in self.cgroups.list(self.cgroup) if not path.endswith("/monitors")]
        left += [f"process {pid} in a cgroup" for pid in self.cgroups.processes(self.cgroup)]
        runtimes = glob.glob(f"{self.state}/runtimes/*")
        for directory in (*runtimes, *(f"{self.state}/{name}" for name in ("containers", "exits", "consoles"))):
            with contextlib.suppress(FileNotFoundError):
                left += os.listdir(directory)
        return left

    async def close(self) -> None:
        """Remove all, whatever state the test left it in."""
        await self.cgroups.kill(self.cgroup)
        for one in reversed(mount.mounts()):
            if self.state in one.target:
                mount.umount_all(one.target)
        await placement.remove(self.cgroups, self.cgroup)
        shutil.rmtree(os.path.dirname(self.state))


class Box:
    """A created container and its handler."""

    def __init__(self, owner: Handler, plan: ContainerPlan, task: Task) -> None:
        self.handler = owner
        self.plan = plan
        self.task = task
        self.id = plan.id

    async def start(self) -> None:
        await self.handler.start(self.id, self.task)

    async def wait(self) -> handler.Exit:
        return await self.handler.wait(self.id, self.task, self.plan.cgroup)

    async def kill(self) -> None:
        await self.handler.kill(self.id, self.task, self.plan.cgroup)

    async def exec(self, *args: str, timeout: float = 10.0, limit: int = 1 << 20) -> ExecResult:
        description = {"user": {"uid": 0, "gid": 0}, "args": list(args), "env": ["PATH=/bin"], "cwd": "/"}
        return await self.handler.exec(self.id, self.task, description, timeout=timeout, limit=limit)

    async def delete(self) -> None:
        await self.handler.delete(self.id, self.plan.cgroup)
        if self.plan.pod is not None:
            await self.handler.delete_pod(self.plan.pod_id, pod_cgroup(self.plan))

    def log(self) -> list[tuple[str, str, str]]:
        """Stream, tag and content of each line."""
        lines = Path(self.plan.log_path).read_text().splitlines()
        return [(stream, tag, text) for _, stream, tag, text in (line.split(" ", 3) for line in lines)]


async def create(owner: Handler, plan: ContainerPlan) -> Box:
    """In a pod of its own, where the handler needs one."""
    if owner.capabilities.own_kernel and plan.pod is None:
        plan = await make_pod(owner, plan)
    return Box(owner, plan, await owner.create(plan))


async def make_pod(owner: Handler, plan: ContainerPlan) -> ContainerPlan:
    """The plan, for a container of a new pod."""
    plan = structs.replace(plan, pod_id=f"pod-{plan.id}"[: ids.LENGTH])
    path = pod_cgroup(plan)
    networked = {"network": "/proc/self/ns/net"}
    pod_plan = PodPlan(
        plan.pod_id, PodSpec(), trial.build_spec(path), cgroup=path, parent=os.path.dirname(path), namespaces=networked
    )
    return structs.replace(plan, pod=await owner.create_pod(pod_plan))


def pod_cgroup(plan: ContainerPlan) -> str:
    return cgroup_systemd.child(os.path.dirname(plan.cgroup), plan.pod_id)


async def run(owner: Handler, plan: ContainerPlan) -> Box:
    box = await create(owner, plan)
    await box.start()
    return box


def make_image(directory: str) -> None:
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        os.makedirs(os.path.join(directory, name))
    shutil.copy(BUSYBOX, os.path.join(directory, "bin/busybox"))
    for name in PROGRAMS:
        os.symlink("busybox", os.path.join(directory, "bin", name))


def build_spec(args: list[str], cgroup_path: str, namespaces: tuple[str, ...]) -> dict[str, Any]:
    """A small runtime spec, as runtimes/oci would make it."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "LD_PRELOAD=/image.so"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": {},  # every spec of the product's has it
        },
    }
