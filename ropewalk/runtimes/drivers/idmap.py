"""Root file systems and volumes with the ids of a pod's user namespace, by idmapped mounts (mount_setattr(2)).

An image's files belong to root, and a pod's root is another user of the node. An overlay stacks its layers from a
mapped mount of the directory that holds them all (Linux 5.19); nothing is copied. What the container writes is stored
with the node's ids, because overlayfs makes its whiteouts as the node's root, whom the map does not know. A root file
system or volume that is a bind is mapped itself, and stored with the ids that the container sees.

The runtimes need to know nothing of this: they find sources that are mapped already.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.errors import Invalid, Unsupported
from ropewalk.linux import mount
from ropewalk.storage import snapshotter


def mount_rootfs(one: snapshotter.Mount, rootfs: str, lower: str, userns: str) -> None:
    """`lower`: where the layers are shown for the time of the overlay's making, mapped by the namespace pinned at
    `userns`. Unsupported where file system or kernel cannot do it."""
    if one.type == "bind":
        with explained(one.source):
            mount.idmap(one.source, rootfs, userns)
        if "ro" in one.options:
            mount.mount("", rootfs, flags=mount.MS_BIND | mount.MS_REMOUNT | mount.MS_RDONLY)
        return
    if one.type != "overlay":
        raise Unsupported(f"a root file system of type {one.type!r} cannot have a user namespace")
    common = os.path.commonpath([os.path.dirname(layer) for layer in one.layers])
    os.makedirs(lower, mode=0o700, exist_ok=True)
    with explained(common):
        mount.idmap(common, lower, userns)
    layers = [os.path.join(lower, os.path.relpath(layer, common)) for layer in one.layers]
    if one.upper:
        inherit(layers[0], one.upper)
    try:
        mount.overlay(rootfs, layers=layers, upper=one.upper, work=one.work, options=tuple(one.options))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Unsupported(
                f"overlayfs does not take idmapped layers: {error}", hint="a user namespace needs Linux 5.19"
            ) from error
        raise
    finally:
        mount.umount_all(lower)


def inherit(layer: str, upper: str) -> None:
    """The upper directory is the container's /, which belongs to whom the topmost layer's does, mapped."""
    status = os.stat(layer)
    os.chown(upper, status.st_uid, status.st_gid)


def mount_volumes(spec: dict[str, Any], directory: str, userns: str) -> dict[str, Any]:
    """The spec with each mount that has mappings replaced by a mapped mount below `directory`. Invalid if the file
    system cannot do it."""
    if not any("uidMappings" in one for one in spec.get("mounts", [])):
        return spec
    return {
        **spec,
        "mounts": [_volume(one, f"{directory}/{number}", userns) for number, one in enumerate(spec["mounts"])],
    }


def _volume(one: Mapping[str, Any], target: str, userns: str) -> dict[str, Any]:
    rest = {name: value for name, value in one.items() if name not in ("uidMappings", "gidMappings")}
    if "uidMappings" not in one:
        return rest
    os.makedirs(os.path.dirname(target), mode=0o711, exist_ok=True)
    if os.path.isdir(one["source"]):
        os.mkdir(target, 0o711)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    propagation = "slave" if "rslave" in one["options"] else "private"
    with explained(one["source"], f"the mount at {one['destination']}: "):
        mount.idmap(one["source"], target, userns, recursive=True, propagation=propagation)
    return {**rest, "source": target}


def remove(lower: str, volumes: str) -> None:
    """Undo of both, at any point of them; idempotent."""
    mount.umount_all(lower)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(lower)
    for name in os.listdir(volumes) if os.path.isdir(volumes) else ():
        target = f"{volumes}/{name}"
        mount.umount_all(target)
        (os.rmdir if os.path.isdir(target) else os.unlink)(target)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(volumes)


@contextlib.contextmanager
def explained(path: str, what: str = "") -> Iterator[None]:
    """mount_setattr(2) says EINVAL where the file system has no idmapped mounts."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            raise Invalid(
                f"{what}{path} cannot be mapped to the pod's user namespace: {error.strerror}",
                hint="its file system, or this kernel, has no idmapped mounts",
            ) from error
        raise
