"""A container as the caller asks for it (runtime.v1.ContainerConfig)."""

from __future__ import annotations

import enum

from msgspec import Struct, field

from ropewalk.spec.image import ImageSpec
from ropewalk.spec.pod import (
    IDMapping,
    LinuxContainerResources,
    NamespaceOption,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
)


class MountPropagation(enum.IntEnum):
    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


class Mount(Struct, frozen=True, omit_defaults=True):
    container_path: str = ""
    host_path: str = ""
    readonly: bool = False
    selinux_relabel: bool = False
    propagation: MountPropagation = MountPropagation.PRIVATE
    uidMappings: list[IDMapping] = field(default_factory=list)  # noqa: N815 (the CRI's name)
    gidMappings: list[IDMapping] = field(default_factory=list)  # noqa: N815
    recursive_read_only: bool = False
    image: ImageSpec | None = None
    image_sub_path: str = ""
    mount_options: list[str] = field(default_factory=list)


class KeyValue(Struct, frozen=True, omit_defaults=True):
    """The value is bytes: it need not be UTF-8 (contract 6.6)."""

    key: str = ""
    value: bytes = b""


class Device(Struct, frozen=True, omit_defaults=True):
    container_path: str = ""
    host_path: str = ""
    permissions: str = ""


class CDIDevice(Struct, frozen=True, omit_defaults=True):
    name: str = ""


class Capability(Struct, frozen=True, omit_defaults=True):
    add_capabilities: list[str] = field(default_factory=list)
    drop_capabilities: list[str] = field(default_factory=list)
    add_ambient_capabilities: list[str] = field(default_factory=list)


class LinuxContainerSecurityContext(Struct, frozen=True, omit_defaults=True):
    capabilities: Capability = Capability()
    privileged: bool = False
    namespace_options: NamespaceOption = NamespaceOption()
    selinux_options: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: list[int] = field(default_factory=list)
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: list[str] = field(default_factory=list)
    readonly_paths: list[str] = field(default_factory=list)
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None
    apparmor_profile: str = ""
    seccomp_profile_path: str = ""


class LinuxContainerConfig(Struct, frozen=True, omit_defaults=True):
    resources: LinuxContainerResources = LinuxContainerResources()
    security_context: LinuxContainerSecurityContext = LinuxContainerSecurityContext()


class ContainerMetadata(Struct, frozen=True, omit_defaults=True):
    name: str = ""
    attempt: int = 0


class ContainerSpec(Struct, frozen=True, omit_defaults=True):
    """runtime.v1.ContainerConfig. `stop_signal` is the CRI's number (0: the image's), not the kernel's."""

    metadata: ContainerMetadata = ContainerMetadata()
    image: ImageSpec = ImageSpec()
    command: list[str] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    working_dir: str = ""
    envs: list[KeyValue] = field(default_factory=list)
    mounts: list[Mount] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    log_path: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    linux: LinuxContainerConfig = LinuxContainerConfig()
    CDI_devices: list[CDIDevice] = field(default_factory=list)
    stop_signal: int = 0

    @property
    def security(self) -> LinuxContainerSecurityContext:
        return self.linux.security_context
