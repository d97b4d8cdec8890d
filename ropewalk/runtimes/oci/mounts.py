"""What is mounted in a container: the defaults, the pod's files, the request's mounts (contract 6.4, 6.5)."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk import errors
from ropewalk.runtimes.oci import usernamespace
from ropewalk.runtimes.oci.facts import NodeFacts, ResolvedMount
from ropewalk.spec.container import Mount, MountPropagation

PROPAGATION = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}
# What Mount.mount_options may add to a bind, each with what it replaces (mount(8)).
OPTIONS = {
    "noexec": "exec",
    "exec": "noexec",
    "nodev": "dev",
    "dev": "nodev",
    "nosuid": "suid",
    "suid": "nosuid",
    "noatime": "atime",
    "atime": "noatime",
    "nodiratime": "diratime",
    "diratime": "nodiratime",
    "relatime": "norelatime",
    "norelatime": "relatime",
    "strictatime": "nostrictatime",
    "nostrictatime": "strictatime",
}
_SHM = "/dev/shm"
TTY_GROUP = 5


def build(
    requested: Sequence[ResolvedMount],
    files: Mapping[str, str],
    *,
    readonly_rootfs: bool,
    privileged: bool,
    facts: NodeFacts,
    users: usernamespace.Maps | None = None,
    files_locked: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Everything, parents before children. A requested mount replaces a default at its place; one at /dev replaces
    all below it too. `users`: of the pod's user namespace; `files_locked`: ResolvedMount.locked of the files'."""
    wanted = [_bind(resolved, facts, users) for resolved in requested]
    taken = {mount["destination"] for mount in wanted}
    locked = files_locked if users is not None else ()
    defaults = [
        *_kernel(privileged=privileged, users=users),
        *_files(files, readonly_rootfs=readonly_rootfs, locked=locked),
    ]
    kept = [
        mount
        for mount in defaults
        if mount["destination"] not in taken and not ("/dev" in taken and mount["destination"].startswith("/dev/"))
    ]
    return sorted([*kept, *wanted], key=lambda mount: _depth(mount["destination"]))


def rootfs_propagation(requested: Sequence[ResolvedMount]) -> str:
    """The root mount must be at least as open as the mounts below it; "" leaves the runtime's private."""
    modes = {resolved.mount.propagation for resolved in requested}
    for mode in (MountPropagation.BIDIRECTIONAL, MountPropagation.HOST_TO_CONTAINER):
        if mode in modes:
            return PROPAGATION[mode]
    return ""


def check(mount: Mount) -> None:
    """The rules that need no look at the node."""
    where = destination(mount)
    if mount.image is not None:
        if mount.host_path:
            raise errors.Invalid(f"the mount at {where} has both an image and host_path {mount.host_path!r}")
        if not mount.readonly:
            raise errors.Invalid(f"the image mount at {where} is not readonly", hint="set readonly")
    elif not mount.host_path.startswith("/") or "\0" in mount.host_path:
        raise errors.Invalid(
            f"the mount at {where} has host_path {mount.host_path[:200]!r}", hint="an absolute path is needed"
        )
    if mount.recursive_read_only:
        _check_recursive(mount, where)
    for option in mount.mount_options:
        _check_option(option, mount, where)


def check_supported(mount: Mount, facts: NodeFacts) -> None:
    """What this node or build cannot do. The kubelet knows the messages by how they begin."""
    where = destination(mount)
    if mount.image is not None:
        raise errors.Unsupported(
            f"ImageVolumeMountFailed: the mount at {where} wants image {mount.image.image!r}",
            hint="image volumes are not built yet",
        )
    if mount.recursive_read_only and not facts.recursive_read_only:
        raise errors.Unsupported(
            f"RROUnsupported: the mount at {where} wants recursive_read_only",
            hint="the pod's runtime handler does not offer it: use readonly, or another handler",
        )


def destination(mount: Mount) -> str:
    """container_path, absolute, without "..", cleaned."""
    path = mount.container_path
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise errors.Invalid(f"a mount has container_path {path[:200]!r}", hint="an absolute path without .. is needed")
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        raise errors.Invalid(f"a mount has container_path {path!r}", hint="nothing can be mounted over the root")
    return clean


def _check_recursive(mount: Mount, where: str) -> None:
    if not mount.readonly:
        raise errors.Invalid(f"the mount at {where} is recursive_read_only and not readonly", hint="set readonly")
    if mount.propagation is not MountPropagation.PRIVATE:
        raise errors.Invalid(
            f"the mount at {where} is recursive_read_only with propagation {mount.propagation.name}",
            hint="recursive_read_only needs propagation PRIVATE",
        )


def _check_option(option: str, mount: Mount, where: str) -> None:
    if option in ("ro", "rw"):
        if (option == "ro") is not mount.readonly:
            raise errors.Invalid(
                f"the mount at {where} has mount option {option!r} and readonly {mount.readonly}",
                hint="readonly decides; leave the option out",
            )
    elif option not in OPTIONS:
        raise errors.Invalid(
            f"the mount at {where} has mount option {option[:80]!r}", hint=f"known are {', '.join(sorted(OPTIONS))}"
        )


def _bind(resolved: ResolvedMount, facts: NodeFacts, users: usernamespace.Maps | None) -> dict[str, Any]:
    mount = resolved.mount
    check(mount)
    check_supported(mount, facts)
    where = destination(mount)
    _check_source(resolved, where)
    access = "rro" if mount.recursive_read_only else "ro" if mount.readonly else "rw"
    extra: list[str] = []
    for option in mount.mount_options:
        if option in OPTIONS:  # ro and rw were found to agree with readonly
            extra = [other for other in extra if other not in (option, OPTIONS[option])] + [option]
    if users is not None:
        _check_propagation(mount, where)
        extra += [option for option in resolved.locked if option not in (*extra, access)]
    options = ["rbind", PROPAGATION[mount.propagation], access, *extra]
    mapped = usernamespace.of_mount(mount, where, users)
    return {"destination": where, "type": "bind", "source": resolved.source, "options": options, **mapped}


def _check_propagation(mount: Mount, where: str) -> None:
    """Mounts of a less privileged namespace never reach the node (mount_namespaces(7))."""
    if mount.propagation is MountPropagation.BIDIRECTIONAL:
        raise errors.Invalid(
            f"the mount at {where} has propagation BIDIRECTIONAL, and its pod has a user namespace",
            hint="HOST_TO_CONTAINER is possible",
        )


def _check_source(resolved: ResolvedMount, where: str) -> None:
    """A propagation that the source's mount does not have would be silently private."""
    needs = {
        MountPropagation.PRIVATE: ("", "shared", "slave", "private"),
        MountPropagation.HOST_TO_CONTAINER: ("", "shared", "slave"),
        MountPropagation.BIDIRECTIONAL: ("", "shared"),
    }[resolved.mount.propagation]
    if resolved.propagation not in needs:
        raise errors.Invalid(
            f"the mount at {where} has propagation {resolved.mount.propagation.name}, "
            f"and {resolved.source} lies on a {resolved.propagation} mount of the node",
            hint=f"mount --make-rshared the file system that holds {resolved.source}",
        )


def _kernel(*, privileged: bool, users: usernamespace.Maps | None) -> list[dict[str, Any]]:
    """File systems that the kernel makes. A privileged container may write /sys and its cgroups."""
    access = "rw" if privileged else "ro"
    terminals = ["gid=5"] if users is None or users.has_gid(TTY_GROUP) else []

    def mount(destination: str, type: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": type, "source": type, "options": list(options)}

    return [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *terminals),
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", "nosuid", "noexec", "nodev", access),
        mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", access),
    ]


def _files(files: Mapping[str, str], *, readonly_rootfs: bool, locked: Sequence[str]) -> list[dict[str, Any]]:
    """The pod's /etc/hostname, /etc/hosts, /etc/resolv.conf, /dev/shm."""
    mounts: list[dict[str, Any]] = []
    for path, source in files.items():
        access = ["rw", "nosuid", "nodev", "noexec"] if path == _SHM else ["ro" if readonly_rootfs else "rw", *locked]
        mounts.append(
            {"destination": path, "type": "bind", "source": source, "options": ["rbind", "rprivate", *access]}
        )
    return mounts


def _depth(path: str) -> int:
    return path.rstrip("/").count("/")
