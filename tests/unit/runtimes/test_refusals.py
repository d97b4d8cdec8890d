"""What capabilities rule out is refused by the CRI's name of the field, and nothing else is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes import refusals
from ropewalk.runtimes.handler import Boundary, Capabilities
from ropewalk.spec.container import (
    ContainerSpec,
    Device,
    LinuxContainerConfig,
    LinuxContainerSecurityContext,
    Mount,
    MountPropagation,
)
from ropewalk.spec.pod import (
    LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    PodSpec,
    ProfileType,
    SecurityProfile,
)
from tests.fakes import world

NODE = NamespaceMode.NODE
NAMED = SecurityProfile(ProfileType.LOCALHOST, "localhost/mine")


def pod(**context: object) -> PodSpec:
    return PodSpec(linux=LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(**context)))  # type: ignore[arg-type]


def container(**context: object) -> ContainerSpec:
    return ContainerSpec(linux=LinuxContainerConfig(security_context=LinuxContainerSecurityContext(**context)))  # type: ignore[arg-type]


def handler(**capabilities: bool) -> world.FakeHandler:
    made = world.FakeHandler(world.World())
    made.name = "strict"
    made.capabilities = replace(Capabilities(boundary=Boundary.USER_KERNEL), **capabilities)
    return made


PODS = [
    ("host_network", pod(namespace_options=NamespaceOption(network=NODE)), "namespace_options.network NODE"),
    ("host_pid", pod(namespace_options=NamespaceOption(pid=NODE)), "namespace_options.pid NODE"),
    ("host_ipc", pod(namespace_options=NamespaceOption(ipc=NODE)), "namespace_options.ipc NODE"),
    ("privileged", pod(privileged=True), "linux.security_context.privileged"),
    ("seccomp", pod(seccomp=NAMED), "linux.security_context.seccomp 'localhost/mine'"),
    ("seccomp", pod(seccomp_profile_path="localhost/x"), "linux.security_context.seccomp_profile_path 'localhost/x'"),
    ("apparmor", pod(apparmor=NAMED), "linux.security_context.apparmor 'localhost/mine'"),
    (
        "sysctls",
        PodSpec(linux=LinuxPodSandboxConfig(sysctls={"net.core.somaxconn": "9"})),
        "linux.sysctls 'net.core",
    ),
]
CONTAINERS = [
    ("target_pid", container(namespace_options=NamespaceOption(pid=NamespaceMode.TARGET)), "pid TARGET"),
    ("privileged", container(privileged=True), "linux.security_context.privileged"),
    ("seccomp", container(seccomp=NAMED), "linux.security_context.seccomp 'localhost/mine'"),
    ("apparmor", container(apparmor_profile="localhost/x"), "linux.security_context.apparmor_profile 'localhost/x'"),
    ("devices", ContainerSpec(devices=[Device(host_path="/dev/fuse")]), "devices '/dev/fuse'"),
    (
        "mount_propagation",
        ContainerSpec(mounts=[Mount(container_path="/m", propagation=MountPropagation.BIDIRECTIONAL)]),
        "mounts of '/m' with propagation BIDIRECTIONAL",
    ),
]


@pytest.mark.parametrize(("capability", "spec", "field"), PODS)
def test_what_a_pod_cannot_have_is_refused_by_name(capability: str, spec: PodSpec, field: str) -> None:
    refusals.check(handler(), spec)
    with pytest.raises(RopewalkError) as caught:
        refusals.check(handler(**{capability: False}), spec)
    assert caught.value.kind is Kind.UNSUPPORTED
    assert caught.value.message.startswith("runtime handler 'strict' (user-space kernel) cannot have linux.")
    assert field in caught.value.message


@pytest.mark.parametrize(("capability", "spec", "field"), CONTAINERS)
def test_what_a_container_cannot_have_is_refused_by_name(capability: str, spec: ContainerSpec, field: str) -> None:
    refusals.check(handler(), PodSpec(), spec)
    with pytest.raises(RopewalkError) as caught:
        refusals.check(handler(**{capability: False}), PodSpec(), spec)
    assert caught.value.kind is Kind.UNSUPPORTED
    assert field in caught.value.message


def test_a_default_profile_is_a_promise_that_a_boundary_keeps() -> None:
    able = handler(seccomp=False, apparmor=False)
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    refusals.check(able, pod(seccomp=default, apparmor=default))
    refusals.check(able, PodSpec(), container(seccomp=default, seccomp_profile_path="runtime/default"))


def test_a_handler_may_refuse_more() -> None:
    class Picky(world.FakeHandler):
        def refuse(self, pod: PodSpec, container: ContainerSpec | None = None) -> None:
            raise RopewalkError("metadata.name is not to my taste", kind=Kind.INVALID)

    with pytest.raises(RopewalkError, match="taste"):
        refusals.check(Picky(world.World()), PodSpec())


def test_limits_that_cannot_change_are_not_changed() -> None:
    refusals.check_update(handler())
    with pytest.raises(RopewalkError, match="'strict' cannot change the limits"):
        refusals.check_update(handler(update=False))
