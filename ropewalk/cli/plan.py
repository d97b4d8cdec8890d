"""What `ropewalk run` asks the endpoint for: a pod with one container, from docker's flags. Pure."""

from __future__ import annotations

import os
import re

from msgspec import Struct, field

from ropewalk.cli import flags, names, units
from ropewalk.errors import Invalid
from ropewalk.spec import container, image, pod

NAMESPACE = "default"
LOGS = "/var/log/pods"  # kubelet's, so that what ships its logs ships these too
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
# What kubelet hides and protects in a container that is not privileged (its pkg/securitycontext).
MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Flags(Struct, frozen=True):
    """The flags as they were given."""

    image: str
    arguments: list[str] = field(default_factory=list)
    name: str = ""
    entrypoint: str = ""
    publish: list[str] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    volume: list[str] = field(default_factory=list)
    workdir: str = ""
    user: str = ""
    runtime: str = ""
    host_network: bool = False
    privileged: bool = False
    cpus: float = 0.0
    memory: str = ""
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    read_only: bool = False
    hostname: str = ""
    label: list[str] = field(default_factory=list)
    tty: bool = False
    log_dir: str = LOGS


class Plan(Struct, frozen=True):
    """The requests, in order."""

    pod: pod.PodSpec
    container: container.ContainerSpec

    @property
    def name(self) -> str:
        return self.pod.metadata.name

    @property
    def log_path(self) -> str:
        return os.path.join(self.pod.log_directory, self.container.log_path)


def build(given: Flags) -> Plan:
    """The specs. Raises Invalid, or Unsupported for what the CRI cannot say."""
    name = given.name or invented(given.image)
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"--name is {name!r}", hint="letters, digits, '.', '_' and '-', at most 63, a letter or digit first"
        )
    if given.host_network and given.publish:
        raise Invalid("--publish with the host's network", hint="there the container's ports are the node's own")
    uid = os.urandom(16).hex()
    labels = flags.parse_labels(given.label)
    options = pod.NamespaceOption(
        network=pod.NamespaceMode.NODE if given.host_network else pod.NamespaceMode.POD,
        pid=pod.NamespaceMode.CONTAINER,
    )
    sandbox = pod.PodSpec(
        metadata=pod.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
        hostname=given.hostname or ("" if given.host_network else hostname(name)),
        log_directory=os.path.join(os.path.abspath(given.log_dir), f"{NAMESPACE}_{name}_{uid}"),
        port_mappings=[flags.parse_port(text) for text in given.publish],
        labels={**labels, names.RUN: name},
        linux=pod.LinuxPodSandboxConfig(
            security_context=pod.LinuxSandboxSecurityContext(namespace_options=options, privileged=given.privileged)
        ),
        runtime_handler=given.runtime,
    )
    return Plan(sandbox, _container(given, name, labels, options))


def _container(
    given: Flags, name: str, labels: dict[str, str], options: pod.NamespaceOption
) -> container.ContainerSpec:
    envs = [flags.parse_variable(text) for text in given.env]
    return container.ContainerSpec(
        metadata=container.ContainerMetadata(name=name),
        image=image.ImageSpec(image=given.image),
        command=[given.entrypoint] if given.entrypoint else [],
        args=given.arguments,
        working_dir=given.workdir,
        envs=[variable for variable in envs if variable is not None],
        mounts=[flags.parse_volume(text) for text in given.volume],
        labels=labels,
        log_path=f"{name}/0.log",
        tty=given.tty,
        linux=container.LinuxContainerConfig(resources=_resources(given), security_context=_security(given, options)),
    )


def _resources(given: Flags) -> pod.LinuxContainerResources:
    quota = flags.cpu_quota(given.cpus)
    return pod.LinuxContainerResources(
        cpu_period=flags.PERIOD if quota else 0,
        cpu_quota=quota,
        memory_limit_in_bytes=units.parse_size(given.memory) if given.memory else 0,
    )


def _security(given: Flags, options: pod.NamespaceOption) -> container.LinuxContainerSecurityContext:
    uid, username, gid = flags.parse_user(given.user) if given.user else (None, "", None)
    return container.LinuxContainerSecurityContext(
        capabilities=container.Capability(
            add_capabilities=flags.parse_capabilities(given.cap_add),
            drop_capabilities=flags.parse_capabilities(given.cap_drop),
        ),
        privileged=given.privileged,
        namespace_options=options,
        run_as_user=uid,
        run_as_username=username,
        run_as_group=gid,
        readonly_rootfs=given.read_only,
        masked_paths=[] if given.privileged else MASKED,
        readonly_paths=[] if given.privileged else READ_ONLY,
        seccomp=None if given.privileged else pod.SecurityProfile(),
    )


def invented(reference: str) -> str:
    """A name for who gave none: the image's last part and four hex digits."""
    base = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    base = re.sub(r"[^a-zA-Z0-9_.-]", "", base).lstrip("_.-")[:50] or "run"
    return f"{base}-{os.urandom(2).hex()}"


def hostname(name: str) -> str:
    """The name as a host name (RFC 1123): no underscores or dots, no hyphen at the end."""
    return re.sub(r"[^a-zA-Z0-9-]", "-", name).strip("-").lower() or "pod"
