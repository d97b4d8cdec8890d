"""What a handler turns down, by its capabilities and before any work: errors name the handler and the CRI's field.

Pure. Refused is what would run with less isolation, or without what it was asked to have. What a boundary makes
needless is not refused: a user-space kernel is a stricter filter than the default seccomp profile. What depends on the
node as well is refused where the spec is built, from the same capabilities: user namespaces (oci/usernamespace.py),
recursive read-only mounts (oci/mounts.py), profiles that are not loaded (oci/security.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ropewalk.errors import Unsupported
from ropewalk.runtimes.handler import Capabilities, Handler
from ropewalk.runtimes.oci import namespaces
from ropewalk.spec.container import ContainerSpec, LinuxContainerSecurityContext, MountPropagation
from ropewalk.spec.pod import LinuxSandboxSecurityContext, NamespaceMode, PodSpec, ProfileType, SecurityProfile

CONTEXT = "linux.security_context"
LOCALHOST = "localhost/"
HINT = "use another RuntimeClass, or leave it out"


def check(handler: Handler, pod: PodSpec, container: ContainerSpec | None = None) -> None:
    """Raise Unsupported for the first field of the pod, or of the container in it, that the handler cannot honour."""
    capabilities = handler.capabilities
    found = of_pod(capabilities, pod) if container is None else of_container(capabilities, pod, container)
    for field in found:
        kind = capabilities.boundary.value
        raise Unsupported(f"runtime handler {handler.name!r} ({kind}) cannot have {field}", hint=HINT)
    handler.refuse(pod, container)


def check_update(handler: Handler) -> None:
    if not handler.capabilities.update:
        raise Unsupported(
            f"runtime handler {handler.name!r} cannot change the limits of a container that exists",
            hint="remove the container, and create it with the new limits",
        )


def check_checkpoint(handler: Handler, handlers: Mapping[str, Handler], pod: PodSpec, container: ContainerSpec) -> None:
    """Before a checkpoint is made or restored. `handlers`: all of this node, by name."""
    if not handler.capabilities.checkpoint:
        able = sorted(name for name, one in handlers.items() if one.capabilities.checkpoint)
        hint = f"{' and '.join(able)} can" if able else "no handler of this node can; runsc builds since 2024 can"
        raise Unsupported(f"runtime handler {handler.name!r} cannot checkpoint or restore a container", hint=hint)
    if pod.host_network:
        raise Unsupported(f"runtime handler {handler.name!r} cannot checkpoint a pod with the node's network")
    if container.tty:
        raise Unsupported(f"runtime handler {handler.name!r} cannot checkpoint a container with a terminal (tty)")


def of_pod(capabilities: Capabilities, pod: PodSpec) -> Iterator[str]:
    """Fields with their values, in the order of the CRI."""
    for kind in ("network", "pid", "ipc"):
        if getattr(pod.namespaces, kind) is NamespaceMode.NODE and not getattr(capabilities, f"host_{kind}"):
            yield f"{CONTEXT}.namespace_options.{kind} NODE"
    context = pod.linux.security_context
    if context.privileged and not capabilities.privileged:
        yield f"{CONTEXT}.privileged"
    yield from _profiles(capabilities, context)
    if pod.linux.sysctls and not capabilities.sysctls:
        yield f"linux.sysctls {sorted(pod.linux.sysctls)[0]!r}"


def of_container(capabilities: Capabilities, pod: PodSpec, container: ContainerSpec) -> Iterator[str]:
    context = container.security
    mode = namespaces.pid_mode(pod, container)
    if mode is NamespaceMode.TARGET and not capabilities.target_pid:
        yield f"{CONTEXT}.namespace_options.pid TARGET"
    if context.privileged and not capabilities.privileged:
        yield f"{CONTEXT}.privileged"
    yield from _profiles(capabilities, context)
    if container.devices and not capabilities.devices:
        yield f"devices {container.devices[0].host_path!r}"
    for mount in container.mounts:
        if mount.propagation is not MountPropagation.PRIVATE and not capabilities.mount_propagation:
            yield f"mounts of {mount.container_path!r} with propagation {mount.propagation.name}"


def _profiles(
    capabilities: Capabilities, context: LinuxSandboxSecurityContext | LinuxContainerSecurityContext
) -> Iterator[str]:
    """Only what names a profile of the node: defaults are a promise about the result, which the boundary keeps."""
    if not capabilities.seccomp:
        yield from _localhost("seccomp", context.seccomp)
        if context.seccomp_profile_path.startswith(LOCALHOST):
            yield f"{CONTEXT}.seccomp_profile_path {context.seccomp_profile_path!r}"
    if not capabilities.apparmor:
        yield from _localhost("apparmor", context.apparmor)
        deprecated = getattr(context, "apparmor_profile", "")  # only a container has it
        if deprecated.startswith(LOCALHOST):
            yield f"{CONTEXT}.apparmor_profile {deprecated!r}"


def _localhost(field: str, profile: SecurityProfile | None) -> Iterator[str]:
    if profile is not None and profile.profile_type is ProfileType.LOCALHOST:
        yield f"{CONTEXT}.{field} {profile.localhost_ref!r}"
