"""Requests that can never run: each error is Invalid or Unsupported and names field and value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ropewalk import errors
from ropewalk.runtimes.oci import sysctls, validate
from ropewalk.spec import container, image, pod
from tests.unit.runtimes.oci import samples

POD, CONTAINER, HOST, TARGET = pod.NamespaceMode
replace = msgspec.structs.replace


def users(*uids: pod.IDMapping, mode: pod.NamespaceMode = POD, gids: list[pod.IDMapping] | None = None) -> pod.PodSpec:
    both = list(uids)
    return samples.pod_spec(userns_options=pod.UserNamespace(mode, both, both if gids is None else gids))


def linux(**fields: Any) -> pod.PodSpec:
    spec = samples.pod_spec()
    return replace(spec, linux=replace(spec.linux, **fields))


def pod_security(**fields: Any) -> pod.PodSpec:
    return linux(security_context=pod.LinuxSandboxSecurityContext(**fields))


GOOD_PODS = [
    samples.pod_spec(),
    replace(samples.pod_spec(), hostname=""),
    replace(samples.pod_spec(), hostname="a" * 64),
    samples.pod_spec(network=HOST, pid=HOST, ipc=HOST),
    linux(cgroup_parent="kubepods-burstable-pod1_2.slice"),
    linux(cgroup_parent=""),
    users(mode=HOST),
]
MAP = pod.IDMapping(host_id=65536, container_id=0, length=65536)


@pytest.mark.parametrize("spec", GOOD_PODS)
def test_good_pods(spec: pod.PodSpec) -> None:
    validate.validate_pod(spec)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (replace(samples.pod_spec(), metadata=pod.PodSandboxMetadata(uid="u", namespace="n")), "metadata.name"),
        (replace(samples.pod_spec(), metadata=pod.PodSandboxMetadata(name="a", namespace="n")), "metadata.uid"),
        (replace(samples.pod_spec(), metadata=pod.PodSandboxMetadata(name="a", uid="u")), "metadata.namespace"),
        (replace(samples.pod_spec(), hostname="a" * 65), "with 65 characters"),
        (replace(samples.pod_spec(), hostname="a\nb"), r"hostname is 'a\nb'"),
        (replace(samples.pod_spec(), hostname="-a"), "hostname is '-a'"),
        (replace(samples.pod_spec(), hostname="a b"), "hostname is 'a b'"),
        (replace(samples.pod_spec(), log_directory="var/log"), "log_directory is 'var/log'"),
        (replace(samples.pod_spec(), log_directory="/var/../etc"), "log_directory"),
        (replace(samples.pod_spec(), port_mappings=[pod.PortMapping(host_port=70000)]), "host_port 70000"),
        (samples.pod_spec(network=CONTAINER), "namespace_options.network is CONTAINER"),
        (samples.pod_spec(network=TARGET), "namespace_options.network is TARGET"),
        (samples.pod_spec(ipc=CONTAINER), "namespace_options.ipc is CONTAINER"),
        (samples.pod_spec(pid=TARGET), "namespace_options.pid of the pod is TARGET"),
        (linux(cgroup_parent="/a/../b"), "cgroup_parent is '/a/../b'"),
        (linux(cgroup_parent="/a\nb"), "cgroup_parent"),
        (linux(overhead=pod.LinuxContainerResources(cpu_shares=-1)), "cpu_shares is -1"),
        (pod_security(run_as_group=5), "run_as_group 5"),
        (pod_security(run_as_user=2**32), "run_as_user is 4294967296"),
        (pod_security(seccomp=pod.SecurityProfile(pod.ProfileType.LOCALHOST, "x")), "localhost_ref 'x'"),
        (pod_security(seccomp_profile_path="x"), "seccomp_profile_path is 'x'"),
        (users(MAP, MAP), "userns_options.uids has 2 mappings"),
        (users(), "userns_options.uids has 0 mappings"),
        (users(MAP, gids=[]), "userns_options.gids has 0 mappings"),
        (users(pod.IDMapping(65536, 1, 10)), "userns_options.uids has 1 mappings"),
        (users(pod.IDMapping(65536, 0, 0)), "userns_options.uids has 1 mappings"),
        (users(pod.IDMapping(-1, 0, 10)), "userns_options.uids has 1 mappings"),
        (users(pod.IDMapping(2**32 - 10, 0, 10)), "userns_options.uids has 1 mappings"),
        (users(MAP, mode=HOST), "mode is NODE with mappings"),
        (users(MAP, mode=CONTAINER), "mode is CONTAINER"),
        (users(MAP, mode=TARGET), "mode is TARGET"),
    ],
)
def test_bad_pods(spec: pod.PodSpec, named: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        validate.validate_pod(spec, user_namespaces=True)
    assert named in str(caught.value)
    assert caught.value.hint


def test_user_namespaces_need_a_handler_that_has_them() -> None:
    validate.validate_pod(users(MAP), user_namespaces=True)
    with pytest.raises(errors.Unsupported, match="user namespace"):
        validate.validate_pod(users(MAP))


def secured(**fields: Any) -> container.ContainerSpec:
    return samples.container_spec(samples.security(**fields))


def options(**fields: Any) -> container.ContainerSpec:
    return secured(namespace_options=pod.NamespaceOption(**fields))


def test_good_containers() -> None:
    validate.validate_container(samples.pod_spec(), samples.container_spec())
    validate.validate_container(samples.pod_spec(), samples.container_spec(tty=True, stdin_once=True))
    validate.validate_container(samples.pod_spec(privileged=True), secured(privileged=True))
    validate.validate_container(samples.pod_spec(network=HOST), options(network=HOST))
    validate.validate_container(samples.pod_spec(), options(pid=TARGET, target_id="a"))
    validate.validate_container(samples.pod_spec(network=HOST, ipc=HOST), options())


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (samples.container_spec(metadata=container.ContainerMetadata()), "metadata.name"),
        (samples.container_spec(image=image.ImageSpec()), "image.image"),
        (samples.container_spec(log_path="/x"), "log_path is '/x'"),
        (samples.container_spec(log_path="a/../../x"), "log_path"),
        (samples.container_spec(working_dir="x"), "working_dir is 'x'"),
        (samples.container_spec(envs=[container.KeyValue("a=b", b"")]), "'a=b'"),
        (samples.container_spec(mounts=[container.Mount("x", "/y")]), "container_path 'x'"),
        (samples.container_spec(mounts=[container.Mount("/x", "y")]), "host_path 'y'"),
        (samples.container_spec(devices=[container.Device("/x", "y", "r")]), "host_path 'y'"),
        (samples.container_spec(stop_signal=99), "stop_signal is 99"),
        (samples.container_spec(resources=pod.LinuxContainerResources(cpu_period=-1)), "cpu_period is -1"),
        (secured(privileged=True), "container 'main' is privileged"),
        (secured(run_as_group=1), "run_as_group 1"),
        (secured(run_as_user=1, run_as_username="a"), "run_as_username 'a'"),
        (secured(capabilities=container.Capability(["NOPE"])), "'NOPE'"),
        (secured(capabilities=container.Capability([], ["NOPE"])), "'NOPE'"),
        (secured(seccomp=pod.SecurityProfile(pod.ProfileType.UNCONFINED, "/p")), "localhost_ref '/p'"),
        (secured(seccomp_profile_path="localhost/x"), "localhost_ref 'x'"),
        (secured(apparmor=pod.SecurityProfile(pod.ProfileType.LOCALHOST, "")), "localhost_ref ''"),
        (secured(masked_paths=["x"]), "masked_paths has 'x'"),
        (secured(readonly_paths=["x"]), "readonly_paths has 'x'"),
        (options(network=HOST), "namespace_options.network of the container is NODE"),
        (options(ipc=HOST), "namespace_options.ipc of the container is NODE"),
        (options(pid=HOST), "namespace_options.pid of the container is NODE"),
        (options(network=CONTAINER), "namespace_options.network of the container is CONTAINER"),
        (options(pid=TARGET), "target_id is empty"),
        (options(userns_options=pod.UserNamespace()), "userns_options of the container"),
    ],
)
def test_bad_containers(spec: container.ContainerSpec, named: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        validate.validate_container(samples.pod_spec(), spec)
    assert named in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "asked", [{"CDI_devices": [container.CDIDevice("a/b=c")]}, {"annotations": {"cdi.k8s.io/plugin_x": "a/b=c"}}]
)
def test_cdi_devices_are_not_built_yet(asked: dict[str, Any]) -> None:
    """None is left out silently: the container would run without it."""
    spec = samples.container_spec(**asked)
    with pytest.raises(errors.Unsupported, match="a/b=c"):
        validate.validate_container(samples.pod_spec(), spec)


def test_sysctl_defaults() -> None:
    low_ports = {"net.ipv4.ip_unprivileged_port_start": "0"}
    assert sysctls.build(samples.pod_spec()) == {}  # its network has them already
    assert sysctls.build(samples.pod_spec(network=HOST)) == {}
    assert sysctls.build(users(MAP)) == low_ports
    assert sysctls.build(users(mode=HOST)) == {}
    asked = {"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shm_rmid_forced": "1"}
    assert sysctls.build(linux(sysctls=asked)) == asked


@pytest.mark.parametrize(
    "name",
    [
        "kernel.shm_rmid_forced", "kernel.shmmax", "kernel.msgmax", "kernel.sem", "fs.mqueue.msg_max",
        "net.ipv4.tcp_syncookies", "net.core.somaxconn", "net.ipv6.conf.eth0-1.accept_ra",
    ],
)  # fmt: skip
def test_sysctls_of_a_pods_namespaces(name: str) -> None:
    assert sysctls.build(linux(sysctls={name: "1"}))[name] == "1"


@pytest.mark.parametrize(
    "name",
    [
        "kernel.core_pattern", "kernel.semx", "vm.overcommit_memory", "fs.file-max", "kernel.hostname",
        "net/ipv4/ip_forward", "kernel.shm/../core_pattern", "net..x", "net.", "net", "", "net.a b", "net.a=b",
        "net.ipv4.x+kernel.core_pattern", "net.a,b", "net.a\nkernel.core_pattern", "../net.a", "net.../x", "NET.a",
        "user.max_user_namespaces",
    ],
)  # fmt: skip
def test_other_sysctls_are_refused(name: str) -> None:
    with pytest.raises(errors.Invalid, match=r"linux\.sysctls has"):
        sysctls.check(linux(sysctls={name: "1"}))


@pytest.mark.parametrize("value", ["1\nkernel.core_pattern=x", "\0", "é", "x" * 5000])
def test_sysctl_values_are_one_line(value: str) -> None:
    with pytest.raises(errors.Invalid):
        sysctls.check(linux(sysctls={"net.core.somaxconn": value}))


@pytest.mark.parametrize(
    ("name", "modes"),
    [("net.core.somaxconn", {"network": HOST}), ("kernel.sem", {"ipc": HOST}), ("fs.mqueue.msg_max", {"ipc": HOST})],
)
def test_sysctls_never_reach_the_node(name: str, modes: dict[str, pod.NamespaceMode]) -> None:
    spec = samples.pod_spec(**modes)  # type: ignore[arg-type]
    with pytest.raises(errors.Invalid, match="namespace is the node's"):
        sysctls.check(replace(spec, linux=replace(spec.linux, sysctls={name: "1"})))
