"""Checks of a whole request before anything is made: every error is Invalid (or Unsupported) and names the field.

Pure. What needs the image (user names, an empty command) or the node is found by `build`, also before any work.
"""

from __future__ import annotations

import re

from ropewalk import errors
from ropewalk.runtimes.oci import (
    capabilities,
    devices,
    mounts,
    namespaces,
    process,
    resources,
    seccomp,
    security,
    selinux,
    signals,
    sysctls,
    users,
)
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import PodSpec, PortMapping

CDI_ANNOTATION = "cdi.k8s.io/"  # what such annotations begin with (CDI's SPEC.md)
HOST_NAME_MAX = 64  # include/linux/utsname.h, __NEW_UTS_LEN

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", re.ASCII)
_CGROUP = re.compile(r"[A-Za-z0-9_.@:/\\-]{1,1024}\Z", re.ASCII)


def validate_pod(pod: PodSpec, *, user_namespaces: bool = False) -> None:
    """Raise for a pod that can never run. `user_namespaces`: the pod's handler offers them."""
    for field in ("name", "namespace", "uid"):
        if not getattr(pod.metadata, field):
            raise errors.Invalid(
                f"metadata.{field} of the pod sandbox is empty", hint="name, namespace and uid are needed"
            )
    _check_hostname(pod.hostname)
    if pod.log_directory and not _clean(pod.log_directory):
        raise errors.Invalid(
            f"log_directory is {pod.log_directory[:200]!r}", hint="an absolute path without .. is needed"
        )
    parent = pod.linux.cgroup_parent
    if parent and (not _CGROUP.match(parent) or ".." in parent.split("/")):
        raise errors.Invalid(f"linux.cgroup_parent is {parent[:200]!r}", hint="a cgroup path or a .slice is needed")
    for mapping in pod.port_mappings:
        _check_port(mapping)
    namespaces.check_pod(pod, user_namespaces=user_namespaces)
    sysctls.check(pod)
    _check_pod_security(pod)
    for limits in (pod.linux.overhead, pod.linux.resources):
        if limits is not None:
            resources.check(limits)


def validate_container(pod: PodSpec, container: ContainerSpec) -> None:
    """Raise for a container that can never run in this pod."""
    if not container.metadata.name:
        raise errors.Invalid("metadata.name of the container is empty", hint="a name is needed")
    if not container.image.image:
        raise errors.Invalid(f"image.image of container {container.metadata.name!r} is empty", hint="name an image")
    _check_cdi(container)
    log = container.log_path
    if log and (log.startswith("/") or ".." in log.split("/") or "\0" in log):
        raise errors.Invalid(f"log_path is {log[:200]!r}", hint="a path below the pod's log_directory is needed")
    if container.working_dir and not container.working_dir.startswith("/"):
        raise errors.Invalid(f"working_dir is {container.working_dir[:200]!r}", hint="an absolute path is needed")
    for variable in container.envs:
        process.check_variable(variable.key, variable.value)
    for mount in container.mounts:
        mounts.destination(mount)
        mounts.check(mount)
    for device in container.devices:
        devices.check(device)
    signals.from_enum(container.stop_signal)
    resources.check(container.linux.resources)
    namespaces.check_container(pod, container)
    _check_container_security(pod, container)


def _check_cdi(container: ContainerSpec) -> None:
    """Asked for by the field or, as older kubelets do and device plugins may, by annotations."""
    asked = [f"CDI_devices has {device.name!r}" for device in container.CDI_devices]
    for key, value in container.annotations.items():
        if key.startswith(CDI_ANNOTATION):
            asked.append(f"annotation {key[:200]!r} asks for {value[:200]!r}")
    if asked:
        raise errors.Unsupported(asked[0], hint="CDI devices are not built yet")


def _check_hostname(hostname: str) -> None:
    if hostname and (len(hostname) > HOST_NAME_MAX or not _HOSTNAME.match(hostname)):
        raise errors.Invalid(
            f"hostname is {hostname[:100]!r} with {len(hostname)} characters",
            hint=f"letters, digits, '.', '-' and '_', at most {HOST_NAME_MAX}",
        )


def _check_port(mapping: PortMapping) -> None:
    for field in ("container_port", "host_port"):
        value = getattr(mapping, field)
        if not 0 <= value <= 65535:
            raise errors.Invalid(f"port_mappings has {field} {value}", hint="ports are 1 to 65535, 0 is none")


def _check_pod_security(pod: PodSpec) -> None:
    context = pod.linux.security_context
    if context.run_as_group is not None and context.run_as_user is None:
        raise errors.Invalid(
            f"run_as_group {context.run_as_group} of the pod sandbox is set without run_as_user",
            hint="set run_as_user too",
        )
    for field in ("run_as_user", "run_as_group"):
        value = getattr(context, field)
        if value is not None:
            users.checked_id(value, f"linux.security_context.{field}")
    for id in context.supplemental_groups:
        users.checked_id(id, "linux.security_context.supplemental_groups")
    if context.seccomp is not None:
        seccomp.check(context.seccomp, "linux.security_context.seccomp")
    seccomp.check_path(context.seccomp_profile_path)
    if context.apparmor is not None:
        security.check_apparmor(context.apparmor)
    selinux.check(context.selinux_options)


def _check_container_security(pod: PodSpec, container: ContainerSpec) -> None:
    context = container.security
    if context.privileged and not pod.linux.security_context.privileged:
        raise errors.Invalid(
            f"container {container.metadata.name!r} is privileged, and its pod sandbox is not",
            hint="set privileged in the pod sandbox's security context too",
        )
    users.check(context)
    names = context.capabilities
    for name in (*names.add_capabilities, *names.drop_capabilities, *names.add_ambient_capabilities):
        capabilities.parse_name(name)
    if context.seccomp is not None:
        seccomp.check(context.seccomp, "linux.security_context.seccomp")
    seccomp.check_path(context.seccomp_profile_path)
    if context.apparmor is not None:
        security.check_apparmor(context.apparmor)
    selinux.check(context.selinux_options)
    security.masked_paths(context)
    security.readonly_paths(context)


def _clean(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path
