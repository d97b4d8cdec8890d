"""A pod's user namespace: which requests are taken, and what the spec says about it (contract 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ropewalk import errors
from ropewalk.runtimes.oci.facts import ResolvedUser
from ropewalk.spec.container import Mount
from ropewalk.spec.pod import IDMapping, NamespaceMode, NamespaceOption, PodSpec

HIGHEST = 2**32 - 2  # the last id there is (user_namespaces(7))


class Maps(NamedTuple):
    """The one range of users and the one of groups; both begin with the namespace's root."""

    uids: IDMapping
    gids: IDMapping

    def has_uid(self, uid: int) -> bool:
        return uid < self.uids.length

    def has_gid(self, gid: int) -> bool:
        return gid < self.gids.length


def of_pod(pod: PodSpec) -> Maps | None:
    """None if the pod has the node's users. `check_pod` has passed."""
    options = pod.namespaces.userns_options
    if options is None or not pod.own_users:
        return None
    return Maps(options.uids[0], options.gids[0])


def check_pod(pod: PodSpec, *, offered: bool) -> None:
    """Exactly one mapping of each kind that begins at id 0, or none for NODE. `offered`: by the pod's handler."""
    options = pod.namespaces.userns_options
    if options is None:
        return
    if options.mode is NamespaceMode.NODE:
        if options.uids or options.gids:
            raise errors.Invalid("userns_options.mode is NODE with mappings", hint="leave uids and gids empty")
        return
    if options.mode is not NamespaceMode.POD:
        raise errors.Invalid(f"userns_options.mode is {options.mode.name}", hint="POD or NODE is needed")
    for kind, mappings in (("uids", options.uids), ("gids", options.gids)):
        if len(mappings) != 1 or not _is_usable(mappings[0]):
            raise errors.Invalid(
                f"userns_options.{kind} has {len(mappings)} mappings: "
                + str([(one.container_id, one.host_id, one.length) for one in mappings[:4]]),
                hint="one mapping (container_id, host_id, length) that begins at container id 0 is needed",
            )
    _check_others(pod.namespaces)
    if not offered:
        raise errors.Unsupported(
            "userns_options asks for a user namespace",
            hint="the pod's runtime handler does not offer them here; `ropewalk runtimes` says why",
        )


def _is_usable(one: IDMapping) -> bool:
    return one.container_id == 0 and one.length >= 1 and 0 <= one.host_id <= HIGHEST - one.length + 1


def _check_others(options: NamespaceOption) -> None:
    """What belongs to the node cannot be administered from within a user namespace: not even /proc and /sys could be
    mounted."""
    for kind in ("network", "pid", "ipc"):
        if getattr(options, kind) is NamespaceMode.NODE:
            raise errors.Invalid(
                f"userns_options asks for a user namespace, and namespace_options.{kind} is NODE",
                hint="a pod with its own users has its own network, processes and IPC",
            )


def check_user(user: ResolvedUser, maps: Maps | None) -> None:
    if maps is None:
        return
    for kind, ids, one in (
        ("user", [user.uid], maps.uids),
        ("group", [user.gid, *user.supplemental_groups], maps.gids),
    ):
        for id in ids:
            if id >= one.length:
                raise errors.Invalid(
                    f"{kind} {id} is not in the pod's user namespace, which has {one.length} of them",
                    hint="run as another, or give userns_options more ids",
                )


def mappings(maps: Maps) -> dict[str, Any]:
    """linux.uidMappings and linux.gidMappings. The namespace exists; runc wants to be told all the same."""
    return {"uidMappings": _ranges([maps.uids]), "gidMappings": _ranges([maps.gids])}


def of_mount(mount: Mount, where: str, maps: Maps | None) -> dict[str, Any]:
    """A mount's uidMappings and gidMappings, which must be the pod's; {} if it has none."""
    if not mount.uidMappings and not mount.gidMappings:
        return {}
    if maps is None:
        raise errors.Invalid(
            f"the mount at {where} has uidMappings or gidMappings, and its pod has no user namespace",
            hint="leave them empty",
        )
    if mount.uidMappings != [maps.uids] or mount.gidMappings != [maps.gids]:
        raise errors.Invalid(
            f"the mount at {where} has uidMappings or gidMappings that are not its pod's",
            hint="use those of the pod's userns_options",
        )
    return mappings(maps)


def _ranges(ranges: Sequence[IDMapping]) -> list[dict[str, int]]:
    return [{"containerID": one.container_id, "hostID": one.host_id, "size": one.length} for one in ranges]
