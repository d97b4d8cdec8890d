"""Requests and facts that the tests of the spec share."""

from __future__ import annotations

from typing import Any

import msgspec

from ropewalk.runtimes.oci import build, facts
from ropewalk.spec import container, image, pod

POD_ID = "f" * 64
ID = "c" * 64
PASSWD = (
    b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\napp:x:1000:1000::/home/app:\n"
)
GROUP = b"root:x:0:\nadm:x:4:app,root\napp:x:1000:\nteam:x:50000:app\n"
FILES = {
    "/etc/hostname": "/run/ropewalk/pods/p/hostname",
    "/etc/hosts": "/run/ropewalk/pods/p/hosts",
    "/etc/resolv.conf": "/run/ropewalk/pods/p/resolv.conf",
    "/dev/shm": "/run/ropewalk/pods/p/shm",
}
NAMESPACES = {
    "network": "/run/netns/ropewalk-1",
    "ipc": "/run/ropewalk/pods/p/ns/ipc",
    "uts": "/run/ropewalk/pods/p/ns/uts",
    "pid": "/run/ropewalk/pods/p/ns/pid",
}
IMAGE = image.ImageConfig(env=["PATH=/bin", "LANG=C.UTF-8"], cmd=["sh"], stop_signal="SIGQUIT")

# As the kubelet sends them for an ordinary pod
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def pod_spec(*, privileged: bool = False, **namespaces: Any) -> pod.PodSpec:
    options = pod.NamespaceOption(**{"pid": pod.NamespaceMode.CONTAINER, **namespaces})
    security = pod.LinuxSandboxSecurityContext(namespace_options=options, privileged=privileged)
    return pod.PodSpec(
        metadata=pod.PodSandboxMetadata(name="web", uid="0000-1", namespace="default"),
        hostname="web-0",
        log_directory="/var/log/pods/default_web_0000-1",
        annotations={"run.oci.handler": "wasm", "run.oci.seccomp_bpf_data": "AAAA"},
        linux=pod.LinuxPodSandboxConfig(cgroup_parent="/kubepods/pod0", security_context=security),
    )


def security(**fields: Any) -> container.LinuxContainerSecurityContext:
    defaults: dict[str, Any] = {
        "masked_paths": MASKED,
        "readonly_paths": READONLY,
        "namespace_options": pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER),
        "seccomp": pod.SecurityProfile(pod.ProfileType.UNCONFINED),  # keeps the golden files short
    }
    return container.LinuxContainerSecurityContext(**{**defaults, **fields})


def container_spec(
    security_context: container.LinuxContainerSecurityContext | None = None,
    resources: pod.LinuxContainerResources | None = None,
    **fields: Any,
) -> container.ContainerSpec:
    linux = container.LinuxContainerConfig(
        security_context=security() if security_context is None else security_context,
        resources=resources or pod.LinuxContainerResources(),
    )
    defaults: dict[str, Any] = {
        "metadata": container.ContainerMetadata("main"),
        "image": image.ImageSpec("sha256:abc", user_specified_image="docker.io/library/app:1"),
    }
    return container.ContainerSpec(linux=linux, **{**defaults, **fields})


def inputs(**fields: Any) -> build.Inputs:
    defaults: dict[str, Any] = {
        "id": ID,
        "pod_id": POD_ID,
        "pod": pod_spec(),
        "container": container_spec(),
        "image": IMAGE,
        "passwd": PASSWD,
        "group": GROUP,
        "namespaces": NAMESPACES,
        "files": FILES,
        "cgroup_path": f"/kubepods/pod0/{ID}",
        "node": facts.NodeFacts(hugepage_sizes=frozenset({"2MB"})),
    }
    return build.Inputs(**{**defaults, **fields})


def with_security(**fields: Any) -> build.Inputs:
    """An ordinary container with these fields of its security context."""
    return inputs(container=container_spec(security(**fields)))


def built(**fields: Any) -> dict[str, Any]:
    return build.build(inputs(**fields)).spec


def replace_node(given: build.Inputs, **fields: Any) -> build.Inputs:
    return msgspec.structs.replace(given, node=msgspec.structs.replace(given.node, **fields))
