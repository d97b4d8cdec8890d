"""Where pods and containers are in the cgroup hierarchy: pure names, chosen before the first side effect.

                 cgroupfs                        systemd
    parent       /kubepods/pod1                  /kubepods.slice/kubepods-pod1.slice (from the request)
    or our own   /ropewalk/pod<id>               /ropewalk.slice/ropewalk-pod<id>.slice
    container    <parent>/<id>                   <parent>/ropewalk-<id>.scope
    monitors     <parent>/ropewalk-monitors-<pod id>, in both

The row of a pod has its parent, so what follows from it does not depend on the driver that new pods get.
"""

from __future__ import annotations

from ropewalk import errors
from ropewalk.linux import cgroup, cgroup_systemd
from ropewalk.pods.records import Pod
from ropewalk.spec.pod import PodSpec


def pod_cgroup(spec: PodSpec, id: str, *, instance: str, driver: str) -> str:
    """The parent of the containers' cgroups. Invalid if the one that is asked for is of the other driver."""
    asked = spec.linux.cgroup_parent
    systemd = driver == cgroup_systemd.SYSTEMD
    if not asked:
        return cgroup_systemd.own_slice(instance, f"pod{id}") if systemd else f"/{instance}/pod{id}"
    if systemd != cgroup_systemd.is_slice(asked.rstrip("/")):
        other = cgroup_systemd.CGROUPFS if systemd else cgroup_systemd.SYSTEMD
        raise errors.Invalid(
            f"linux.cgroup_parent {asked!r} is of the {other} cgroup driver, and ropewalk's is {driver}",
            hint=f'set cgroup_driver = "{other}" in config.toml, or cgroupDriver: {driver} for the kubelet',
        )
    return cgroup_systemd.parse_slice(asked) if systemd else "/" + cgroup.relative("/" + asked)


def container_cgroup(pod: Pod, id: str) -> str:
    """Of a container, or of the pod's init, whose id is the pod's."""
    return cgroup_systemd.child(pod.cgroup, id)


def monitor_cgroup(pod: Pod) -> str:
    """The leaf beside the containers in which their monitors live. In a slice, too, it is no unit of systemd's
    (decision 0009)."""
    return f"{pod.cgroup}/ropewalk-monitors-{pod.id[:12]}"


def root(instance: str, driver: str) -> str:
    """What holds the pods without a parent, and the trials of handlers."""
    return cgroup_systemd.own_slice(instance) if driver == cgroup_systemd.SYSTEMD else f"/{instance}"


def roots(instance: str) -> list[str]:
    """Of both drivers: the setting may have been another one."""
    return [root(instance, driver) for driver in (cgroup_systemd.CGROUPFS, cgroup_systemd.SYSTEMD)]


async def remove(cgroups: cgroup.Cgroups, path: str) -> None:
    """Remove a cgroup and those below; a slice is stopped as well. Absent is fine."""
    if cgroup_systemd.is_slice(path) and cgroups.exists(path):
        await cgroup_systemd.stop(path)
    await cgroups.remove(path)
