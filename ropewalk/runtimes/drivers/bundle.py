"""A bundle: the directory <state>/containers/<id> that holds all that is known of a container below its row.

    config.json   the OCI runtime spec           rootfs/    mount point of the root file system
    plan.json     cgroup and log path            task.json  pids, once the create is complete
    lower/ volumes/  idmapped mounts             pid ctl attach winsz oom spared oci.log   of monitor and runtime

Nothing here is removed recursively: a root file system that could not be unmounted keeps its bundle, never loses
its content.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import msgspec
from msgspec import Struct, structs

from ropewalk import ids
from ropewalk.errors import Invalid, NotFound, RopewalkError, Unsupported
from ropewalk.linux import mount, paths, process
from ropewalk.runtimes.drivers import command, idmap
from ropewalk.runtimes.handler import Task
from ropewalk.storage import snapshotter


class Record(Struct, frozen=True):
    """plan.json: what undo, update and log rotation need beside the id. `runtime`: whose container it is; `pod`:
    which one it is in, "" for a pod's own; `pod_ooms`: OOM kills in the pod that others have explained, or that
    were before it was made."""

    runtime: str = ""
    pod: str = ""
    cgroup: str = ""
    log_path: str = ""
    pod_ooms: int = 0


class Bundle:
    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.rootfs = os.path.join(directory, "rootfs")
        self.log = os.path.join(directory, "oci.log")
        self.pid_file = os.path.join(directory, "pid")

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def make(self, record: Record) -> None:
        """The directories and plan.json. Other users of the node do not get to rootfs, where setuid programs of images
        are (CVE-2021-41103)."""
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        os.makedirs(self.rootfs, mode=0o711, exist_ok=True)
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        paths.write_atomic(self.path("plan.json"), msgspec.json.encode(record), 0o600)

    def mount(self, mounts: list[snapshotter.Mount], *, apart: bool, userns: str = "", label: str = "") -> None:
        """Mount the root file system. `apart`: on a mount of its own that is private, because the state directory
        propagates: without that, every namespace that receives its mounts would keep a copy. `userns`: pin of the user
        namespace whose ids it has (idmap.py). `label`: the SELinux label that all its files have in there."""
        if apart:
            mount.bind(self.directory, self.directory)
            mount.make_private(self.directory)
        if userns:
            os.chmod(self.directory, 0o711)  # the pod's root is another user of the node, and passes through
        for one in [labelled(one, label) for one in mounts] if label else mounts:
            if userns:
                idmap.mount_rootfs(one, self.rootfs, self.path("lower"), userns)
            elif one.type == "overlay":
                mount.overlay(
                    self.rootfs, layers=one.layers, upper=one.upper, work=one.work, options=tuple(one.options)
                )
            elif one.type == "bind":
                mount.bind(one.source, self.rootfs, read_only="ro" in one.options, recursive="rbind" in one.options)
            else:
                flags = mount.MS_RDONLY if "ro" in one.options else 0
                data = ",".join(option for option in one.options if option not in ("ro", "rw"))
                mount.mount(one.source, self.rootfs, one.type, flags, data)

    def show(self, directory: str, *, apart: bool) -> str:
        """A directory as the root file system, whose programs may run although its file system says noexec (/run on
        Debian): with a user namespace no runtime could lift that. Returns where it is seen."""
        self.mount([snapshotter.Mount(type="bind", source=directory)], apart=apart)
        os.chmod(self.directory, 0o711)  # as for a root file system of mapped users
        mount.mount("", self.rootfs, flags=mount.MS_REMOUNT | mount.MS_BIND | mount.MS_NOSUID | mount.MS_NODEV)
        return self.rootfs

    def write(self, config: bytes) -> None:
        paths.write_atomic(self.path("config.json"), config, 0o600)

    def read_config(self) -> dict[str, Any]:
        content = self.read("config.json")
        if not content:
            raise NotFound(f"container {ids.short(os.path.basename(self.directory))} has no bundle")
        config: dict[str, Any] = msgspec.json.decode(content)
        return config

    def read_record(self) -> Record:
        """Empty if the create did not come so far."""
        content = self.read("plan.json")
        return msgspec.json.decode(content, type=Record) if content else Record()

    def write_task(self, task: Task) -> None:
        paths.write_atomic(self.path("task.json"), msgspec.json.encode(task), 0o600)

    def read_task(self) -> Task | None:
        content = self.read("task.json")
        return msgspec.json.decode(content, type=Task) if content else None

    def read_init(self) -> Task:
        """The task of a container without a monitor, from the runtime's pid file. RopewalkError if that has none."""
        content = self.read("pid")
        if not content.strip().isdigit():
            id = ids.short(os.path.basename(self.directory))
            raise RopewalkError(f"container {id}: the runtime left {content[:40]!r} in its pid file")
        pid = int(content)
        return Task(pid=pid, pid_start=process.start_time(pid) or 0)

    def read_error(self) -> str:
        """The runtime's last error, "" if it logged none."""
        return command.parse_log(self.read("oci.log"))

    def read(self, name: str) -> bytes:
        """A file of it, b"" if there is none."""
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def unmount(self) -> None:
        """Everything that is mounted in it, and itself; idempotent."""
        mount.umount_all(self.rootfs)
        idmap.remove(self.path("lower"), self.path("volumes"))
        mount.umount_all(self.directory)

    def remove(self) -> None:
        """Unmount and remove; idempotent. OSError EBUSY if something is still mounted."""
        self.unmount()
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        for name in names:
            if name not in ("rootfs", "lower", "volumes"):
                with contextlib.suppress(FileNotFoundError):  # whoever made it removes it, too
                    os.unlink(self.path(name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.rootfs)
        os.rmdir(self.directory)


def labelled(one: snapshotter.Mount, label: str) -> snapshotter.Mount:
    """The mount with all its files under one SELinux label, whatever labels the layers' files have."""
    if one.type == "bind":
        raise Unsupported(
            f"the root file system {one.source} is a bind mount, which cannot have an SELinux label of its own",
            hint='use snapshotter = "overlay"',
        )
    return structs.replace(one, options=[*one.options, f"context={label}"])


KERNELS = ("dev", "proc", "sys")


def check_rootfs(rootfs: str) -> None:
    """Invalid if a directory that runtimes fill before they enter the root file system is a link: runc 1.1 and crun 1.8
    follow one at /dev, as root on the node (CVE-2026-41579, CVE-2026-47766). Nothing runs in it yet, so what is seen
    here stays."""
    for name in KERNELS:
        path = os.path.join(rootfs, name)
        if os.path.islink(path):
            raise Invalid(
                f"/{name} of the image is a link to {os.readlink(path)[:200]!r}",
                hint="it must be a directory, or not be there: runtimes make files in it",
            )


def is_propagating(directory: str) -> bool:
    """Whether mounts made below `directory` appear in other mount namespaces too."""
    inside = os.path.realpath(directory)
    best = mount.MountInfo(0, 0, "", "", "/", "", "", "", "", "")
    for one in mount.mounts():
        above = one.target.rstrip("/") + "/"
        if (inside + "/").startswith(above) and len(one.target) >= len(best.target):
            best = one
    return "shared:" in best.propagation
