"""Which annotations a runtime sees: ours, the handler's own, and of the pod's only what its configuration names.

Runtimes group a pod's containers by annotations: a user-space kernel or a virtual machine is made for the container of
type "sandbox", and those with the same sandbox id join it. containerd and CRI-O call them differently, and runtimes
read the one, the other or both (gVisor, Kata); so both are set.

crun, Kata and gVisor also take orders from annotations (design, rule 6), so nothing of a user's passes by default, and
what would replace a filter, run a program, set unit properties or move processes to other cgroups never passes. Image
labels are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec

CONTAINERD = "io.kubernetes.cri."
CRIO = "io.kubernetes.cri-o."
TYPE = f"{CONTAINERD}container-type"  # "container" or "sandbox"; crun skips its handlers for a sandbox
SANDBOX_ID = f"{CONTAINERD}sandbox-id"

# Prefixes that no configuration opens.
NEVER = (
    CONTAINERD,  # ours
    CRIO,
    "run.oci.seccomp",  # seccomp_bpf_data replaces the filter
    "run.oci.hooks.",
    "run.oci.pidfd_receiver",
    "run.oci.keep_original_groups",
    "run.oci.mount_context_type",
    "run.oci.systemd.",  # where in the cgroup hierarchy the processes are is ours to know
    "run.oci.delegate-cgroup",
    "org.systemd.property.",  # CVE-2024-3154
    "org.criu.",
)


def of_container(
    pod: PodSpec,
    container: ContainerSpec,
    *,
    sandbox_id: str,
    allow: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """`allow` and `fixed`: pod_annotations and annotations of the handler's configuration; a key of `allow` that ends
    in "*" is a prefix. Whoever runs the node wins over the container, and the container over its pod."""
    image = container.image.user_specified_image or container.image.image
    return {
        **_allowed(pod.annotations, allow),
        **_allowed(container.annotations, allow),
        **(fixed or {}),
        **_pod(pod, "container", sandbox_id),
        f"{CONTAINERD}container-name": container.metadata.name,
        f"{CRIO}ContainerName": container.metadata.name,
        f"{CONTAINERD}image-name": image,
        f"{CRIO}ImageName": image,
    }


def of_sandbox(
    pod: PodSpec, *, sandbox_id: str, allow: Sequence[str] = (), fixed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Of the pod's own container. What the pod may use in all is told too: a virtual machine is sized by it."""
    return {
        **_allowed(pod.annotations, allow),
        **(fixed or {}),
        **_pod(pod, "sandbox", sandbox_id),
        f"{CONTAINERD}sandbox-log-directory": pod.log_directory,
        f"{CRIO}LogPath": pod.log_directory,
        **_sizes(pod),
    }


def _pod(pod: PodSpec, type: str, sandbox_id: str) -> dict[str, str]:
    return {
        TYPE: type,
        SANDBOX_ID: sandbox_id,
        f"{CONTAINERD}sandbox-name": pod.metadata.name,
        f"{CONTAINERD}sandbox-namespace": pod.metadata.namespace,
        f"{CONTAINERD}sandbox-uid": pod.metadata.uid,
        f"{CRIO}ContainerType": type,
        f"{CRIO}SandboxID": sandbox_id,
        f"{CRIO}KubeName": pod.metadata.name,
        f"{CRIO}Namespace": pod.metadata.namespace,
    }


def _sizes(pod: PodSpec) -> dict[str, str]:
    """Only what the kubelet told."""
    found = {}
    if pod.linux.resources is not None:
        limits = pod.linux.resources
        found = {
            f"{CONTAINERD}sandbox-cpu-period": str(limits.cpu_period),
            f"{CONTAINERD}sandbox-cpu-quota": str(limits.cpu_quota),
            f"{CONTAINERD}sandbox-cpu-shares": str(limits.cpu_shares),
            f"{CONTAINERD}sandbox-memory": str(limits.memory_limit_in_bytes),
            f"{CRIO}PodLinuxResources": msgspec.json.encode(limits).decode(),
        }
    if pod.linux.overhead is not None:
        found[f"{CRIO}PodLinuxOverhead"] = msgspec.json.encode(pod.linux.overhead).decode()
    return found


def _allowed(annotations: Mapping[str, str], allow: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if _matches(key, allow) and not key.startswith(NEVER)}


def _matches(key: str, allow: Sequence[str]) -> bool:
    return any(key.startswith(rule[:-1]) if rule.endswith("*") else key == rule for rule in allow)
