"""A pod sandbox as the caller asks for it (runtime.v1.PodSandboxConfig)."""

from __future__ import annotations

import enum

from msgspec import Struct, field


class Protocol(enum.IntEnum):
    TCP = 0
    UDP = 1
    SCTP = 2


class NamespaceMode(enum.IntEnum):
    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class SupplementalGroupsPolicy(enum.IntEnum):
    MERGE = 0
    STRICT = 1


class ProfileType(enum.IntEnum):
    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


class SecurityProfile(Struct, frozen=True, omit_defaults=True):
    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    localhost_ref: str = ""


class SELinuxOption(Struct, frozen=True, omit_defaults=True):
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class IDMapping(Struct, frozen=True, omit_defaults=True):
    host_id: int = 0
    container_id: int = 0
    length: int = 0


class UserNamespace(Struct, frozen=True, omit_defaults=True):
    mode: NamespaceMode = NamespaceMode.POD
    uids: list[IDMapping] = field(default_factory=list)
    gids: list[IDMapping] = field(default_factory=list)


class NamespaceOption(Struct, frozen=True, omit_defaults=True):
    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns_options: UserNamespace | None = None


class HugepageLimit(Struct, frozen=True, omit_defaults=True):
    page_size: str = ""
    limit: int = 0


class LinuxContainerResources(Struct, frozen=True, omit_defaults=True):
    """Zero means "not set" for every number (contract 6.10)."""

    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_shares: int = 0
    memory_limit_in_bytes: int = 0
    oom_score_adj: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    hugepage_limits: list[HugepageLimit] = field(default_factory=list)
    unified: dict[str, str] = field(default_factory=dict)
    memory_swap_limit_in_bytes: int = 0


class PortMapping(Struct, frozen=True, omit_defaults=True):
    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""


class DNSConfig(Struct, frozen=True, omit_defaults=True):
    servers: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


class LinuxSandboxSecurityContext(Struct, frozen=True, omit_defaults=True):
    namespace_options: NamespaceOption = NamespaceOption()
    selinux_options: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: list[int] = field(default_factory=list)
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    seccomp_profile_path: str = ""


class LinuxPodSandboxConfig(Struct, frozen=True, omit_defaults=True):
    cgroup_parent: str = ""
    security_context: LinuxSandboxSecurityContext = LinuxSandboxSecurityContext()
    sysctls: dict[str, str] = field(default_factory=dict)
    overhead: LinuxContainerResources | None = None
    resources: LinuxContainerResources | None = None


class PodSandboxMetadata(Struct, frozen=True, omit_defaults=True):
    name: str = ""
    uid: str = ""
    namespace: str = ""
    attempt: int = 0


class PodSpec(Struct, frozen=True, omit_defaults=True):
    """runtime.v1.PodSandboxConfig, and the handler that was asked for ("" is the default)."""

    metadata: PodSandboxMetadata = PodSandboxMetadata()
    hostname: str = ""
    log_directory: str = ""
    dns_config: DNSConfig | None = None
    port_mappings: list[PortMapping] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    linux: LinuxPodSandboxConfig = LinuxPodSandboxConfig()
    runtime_handler: str = ""

    @property
    def namespaces(self) -> NamespaceOption:
        return self.linux.security_context.namespace_options

    @property
    def host_network(self) -> bool:
        return self.namespaces.network is NamespaceMode.NODE

    @property
    def own_users(self) -> bool:
        """Whether the pod has a user namespace."""
        options = self.namespaces.userns_options
        return options is not None and options.mode is NamespaceMode.POD
