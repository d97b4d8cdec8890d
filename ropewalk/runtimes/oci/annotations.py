"""Which annotations a runtime sees: ours, and of the pod's only what the handler's configuration names.

crun, Kata and gVisor take orders from annotations (design, rule 6), so nothing passes by default, and what would
replace a filter, run a program or set unit properties never passes. Image labels are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec

TYPE = "io.kubernetes.cri.container-type"  # "container" or "sandbox"; crun skips its handlers for a sandbox
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"

_PREFIX = "io.kubernetes.cri."
# Prefixes that no configuration opens.
NEVER = (
    "io.kubernetes.cri.",  # ours
    "io.kubernetes.cri-o.",
    "run.oci.seccomp",  # seccomp_bpf_data replaces the filter
    "run.oci.hooks.",
    "run.oci.pidfd_receiver",
    "run.oci.keep_original_groups",
    "run.oci.mount_context_type",
    "org.systemd.property.",  # CVE-2024-3154
    "org.criu.",
)


def of_container(pod: PodSpec, container: ContainerSpec, *, sandbox_id: str, allow: Sequence[str]) -> dict[str, str]:
    """`allow`: keys of the handler's configuration; one that ends in "*" is a prefix. The container's win."""
    return {
        **_allowed(pod.annotations, allow),
        **_allowed(container.annotations, allow),
        **_pod(pod, "container", sandbox_id),
        f"{_PREFIX}container-name": container.metadata.name,
        f"{_PREFIX}image-name": container.image.user_specified_image or container.image.image,
    }


def of_init(pod: PodSpec, *, sandbox_id: str) -> dict[str, str]:
    return _pod(pod, "sandbox", sandbox_id)


def _pod(pod: PodSpec, type: str, sandbox_id: str) -> dict[str, str]:
    return {
        TYPE: type,
        SANDBOX_ID: sandbox_id,
        f"{_PREFIX}sandbox-name": pod.metadata.name,
        f"{_PREFIX}sandbox-namespace": pod.metadata.namespace,
        f"{_PREFIX}sandbox-uid": pod.metadata.uid,
    }


def _allowed(annotations: Mapping[str, str], allow: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if _matches(key, allow) and not key.startswith(NEVER)}


def _matches(key: str, allow: Sequence[str]) -> bool:
    return any(key.startswith(rule[:-1]) if rule.endswith("*") else key == rule for rule in allow)
