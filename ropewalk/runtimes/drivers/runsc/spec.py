"""What runsc is given for a runtime spec: the Sentry is the kernel there, so much of what is meant for the node's is of
no use to it, and some of it would break it. Pure.

Tried with the builds of 2022-12 and 2024-07:

- A device without fileMode ends the Sentry (nil pointer in createDeviceFile), and none is the node's device anyway.
- A seccomp profile is honoured by --oci-seccomp for the container's first process only, not for exec.
- AppArmor, SELinux labels, mount propagation and a container's limits are ignored.
- The host name is that of the pod's own container.
- Containers without a "pid" entry are in the Sentry's first PID namespace, with the pod's own container as process 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DROPPED = ("seccomp", "devices", "rootfsPropagation", "resources", "sysctl")
LABELS = ("apparmorProfile", "selinuxLabel")
PREFIX = "io.kubernetes.cri."
OTHER_PREFIX = "io.kubernetes.cri-o."


def of_pod(spec: Mapping[str, Any], hostname: str) -> dict[str, Any]:
    """The pod's own container, from which the Sentry is made: in the pod's network namespace and cgroup."""
    return {
        **spec,
        "hostname": hostname,
        "process": _unlabelled(spec["process"]),
        "linux": _stripped(spec["linux"]),
    }


def of_container(spec: Mapping[str, Any], pod_id: str) -> dict[str, Any]:
    """One that joins the Sentry of pod `pod_id`, which is what the annotations say."""
    linux = _stripped(spec["linux"])
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] != "pid" or not one.get("path")]
    grouping = {
        f"{PREFIX}container-type": "container",
        f"{PREFIX}sandbox-id": pod_id,
        f"{OTHER_PREFIX}ContainerType": "container",
        f"{OTHER_PREFIX}SandboxID": pod_id,
    }
    annotations = {**spec.get("annotations", {}), **grouping}
    return {**spec, "annotations": annotations, "process": _unlabelled(spec["process"]), "linux": linux}


def _stripped(linux: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in linux.items() if name not in DROPPED}


def _unlabelled(process: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in process.items() if name not in LABELS}
