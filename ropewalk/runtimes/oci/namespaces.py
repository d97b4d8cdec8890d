"""Which namespaces a container gets, joins, or shares with the node (contract 6.2).

Network, IPC and UTS are always the pod's. PID is the container's choice within what the pod has.
"""

from __future__ import annotations

from collections.abc import Mapping

from ropewalk import errors
from ropewalk.runtimes.oci import usernamespace
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import NamespaceMode, PodSpec


def build(pod: PodSpec, container: ContainerSpec, paths: Mapping[str, str], facts: NodeFacts) -> list[dict[str, str]]:
    """linux.namespaces. `paths`: OCI type -> path of what is joined; for TARGET "pid" is the target's."""
    found = [_joined("user", paths)] if "user" in paths else []
    found.append({"type": "mount"})
    if pod.namespaces.network is not NamespaceMode.NODE:
        # The UTS namespace goes with the network: host network pods have the node's host name.
        found += [_joined("network", paths), _joined("uts", paths)]
    if pod.namespaces.ipc is not NamespaceMode.NODE:
        found.append(_joined("ipc", paths))
    found += _pid(pod, container, paths)
    if facts.cgroup_version == 2 and not container.security.privileged:
        found.append({"type": "cgroup"})
    return found


def pid_mode(pod: PodSpec, container: ContainerSpec) -> NamespaceMode:
    """What the container really gets. POD is the CRI's zero value: it means the node's PIDs in a pod that has those,
    and an own namespace in a pod that shares none."""
    asked, pods = container.security.namespace_options.pid, pod.namespaces.pid
    if asked is NamespaceMode.POD:
        return pods
    if asked is NamespaceMode.NODE and pods is not NamespaceMode.NODE:
        raise errors.Invalid(
            f"namespace_options.pid of the container is NODE, and its pod has {pods.name}",
            hint="ask for NODE in the pod sandbox",
        )
    return asked


def check_pod(pod: PodSpec, *, user_namespaces: bool) -> None:
    """The combinations that a pod may have."""
    options = pod.namespaces
    for kind in ("network", "ipc"):
        mode = getattr(options, kind)
        if mode not in (NamespaceMode.POD, NamespaceMode.NODE):
            raise errors.Invalid(f"namespace_options.{kind} is {mode.name}", hint="POD or NODE is needed")
    if options.pid is NamespaceMode.TARGET:
        raise errors.Invalid("namespace_options.pid of the pod is TARGET", hint="only a container can have a target")
    usernamespace.check_pod(pod, offered=user_namespaces)


def check_container(pod: PodSpec, container: ContainerSpec) -> None:
    """A container cannot leave its pod's namespaces."""
    options = container.security.namespace_options
    for kind in ("network", "ipc"):
        mode, pods = getattr(options, kind), getattr(pod.namespaces, kind)
        if mode is not NamespaceMode.POD and mode is not pods:
            raise errors.Invalid(
                f"namespace_options.{kind} of the container is {mode.name}, and its pod has {pods.name}",
                hint="the pod decides",
            )
    if pid_mode(pod, container) is NamespaceMode.TARGET and not options.target_id:
        raise errors.Invalid("namespace_options.pid is TARGET and target_id is empty", hint="name a container")
    if options.userns_options is not None and options.userns_options != pod.namespaces.userns_options:
        raise errors.Invalid(
            "namespace_options.userns_options of the container is not its pod's", hint="the pod decides"
        )


def _pid(pod: PodSpec, container: ContainerSpec, paths: Mapping[str, str]) -> list[dict[str, str]]:
    mode = pid_mode(pod, container)
    if mode is NamespaceMode.NODE:
        return []
    return [{"type": "pid"}] if mode is NamespaceMode.CONTAINER else [_joined("pid", paths)]


def _joined(type: str, paths: Mapping[str, str]) -> dict[str, str]:
    path = paths.get(type, "")
    if not path:
        raise errors.RopewalkError(
            f"the pod has no {type} namespace to join", hint="this is a defect: please report it"
        )
    return {"type": type, "path": path}
