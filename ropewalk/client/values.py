"""What a CRI endpoint answers, as plain values with runtime.v1's field names. Times are nanoseconds since the
epoch; None in a statistic is "unknown"."""

from __future__ import annotations

import enum

from msgspec import Struct, field

from ropewalk.spec.container import ContainerMetadata, Mount
from ropewalk.spec.image import ImageSpec
from ropewalk.spec.pod import LinuxContainerResources, NamespaceOption, PodSandboxMetadata


class PodSandboxState(enum.IntEnum):
    READY = 0
    NOTREADY = 1


class ContainerState(enum.IntEnum):
    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


class Version(Struct, frozen=True):
    version: str = ""
    runtime_name: str = ""
    runtime_version: str = ""
    runtime_api_version: str = ""


class RuntimeCondition(Struct, frozen=True):
    type: str = ""
    status: bool = False
    reason: str = ""
    message: str = ""


class RuntimeStatus(Struct, frozen=True):
    conditions: list[RuntimeCondition] = field(default_factory=list)


class RuntimeHandlerFeatures(Struct, frozen=True):
    recursive_read_only_mounts: bool = False
    user_namespaces: bool = False


class RuntimeHandler(Struct, frozen=True):
    name: str = ""
    features: RuntimeHandlerFeatures = RuntimeHandlerFeatures()


class RuntimeFeatures(Struct, frozen=True):
    supplemental_groups_policy: bool = False
    user_namespaces_host_network: bool = False
    mount_options: bool = False


class Status(Struct, frozen=True):
    status: RuntimeStatus = RuntimeStatus()
    info: dict[str, str] = field(default_factory=dict)
    runtime_handlers: list[RuntimeHandler] = field(default_factory=list)
    features: RuntimeFeatures = RuntimeFeatures()

    def condition(self, type: str) -> RuntimeCondition:
        """The condition of this type ("RuntimeReady", "NetworkReady"); false if the endpoint does not tell it."""
        return next((c for c in self.status.conditions if c.type == type), RuntimeCondition(type=type))


class PodSandbox(Struct, frozen=True):
    id: str = ""
    metadata: PodSandboxMetadata = PodSandboxMetadata()
    state: PodSandboxState = PodSandboxState.READY
    created_at: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    runtime_handler: str = ""


class PodIP(Struct, frozen=True):
    ip: str = ""


class PodSandboxNetworkStatus(Struct, frozen=True):
    ip: str = ""
    additional_ips: list[PodIP] = field(default_factory=list)


class Namespace(Struct, frozen=True):
    options: NamespaceOption = NamespaceOption()


class LinuxPodSandboxStatus(Struct, frozen=True):
    namespaces: Namespace = Namespace()


class PodSandboxStatus(Struct, frozen=True):
    id: str = ""
    metadata: PodSandboxMetadata = PodSandboxMetadata()
    state: PodSandboxState = PodSandboxState.READY
    created_at: int = 0
    network: PodSandboxNetworkStatus = PodSandboxNetworkStatus()
    linux: LinuxPodSandboxStatus = LinuxPodSandboxStatus()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    runtime_handler: str = ""

    @property
    def ips(self) -> list[str]:
        first = [self.network.ip] if self.network.ip else []
        return first + [address.ip for address in self.network.additional_ips]


class Container(Struct, frozen=True):
    id: str = ""
    pod_sandbox_id: str = ""
    metadata: ContainerMetadata = ContainerMetadata()
    image: ImageSpec = ImageSpec()
    image_ref: str = ""
    state: ContainerState = ContainerState.CREATED
    created_at: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    image_id: str = ""


class LinuxContainerUser(Struct, frozen=True):
    uid: int = 0
    gid: int = 0
    supplemental_groups: list[int] = field(default_factory=list)


class ContainerUser(Struct, frozen=True):
    linux: LinuxContainerUser = LinuxContainerUser()


class ContainerResources(Struct, frozen=True):
    linux: LinuxContainerResources = LinuxContainerResources()


class ContainerStatus(Struct, frozen=True):
    id: str = ""
    metadata: ContainerMetadata = ContainerMetadata()
    state: ContainerState = ContainerState.CREATED
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    image: ImageSpec = ImageSpec()
    image_ref: str = ""
    reason: str = ""
    message: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    log_path: str = ""
    resources: ContainerResources = ContainerResources()
    image_id: str = ""
    user: ContainerUser = ContainerUser()
    stop_signal: int = 0


class ExecResult(Struct, frozen=True):
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


class Image(Struct, frozen=True):
    id: str = ""
    repo_tags: list[str] = field(default_factory=list)
    repo_digests: list[str] = field(default_factory=list)
    size: int = 0
    uid: int | None = None
    username: str = ""
    spec: ImageSpec = ImageSpec()
    pinned: bool = False


class FilesystemIdentifier(Struct, frozen=True):
    mountpoint: str = ""


class FilesystemUsage(Struct, frozen=True):
    timestamp: int = 0
    fs_id: FilesystemIdentifier = FilesystemIdentifier()
    used_bytes: int | None = None
    inodes_used: int | None = None


class ImageFsInfo(Struct, frozen=True):
    image_filesystems: list[FilesystemUsage] = field(default_factory=list)
    container_filesystems: list[FilesystemUsage] = field(default_factory=list)


class PsiData(Struct, frozen=True):
    Total: int = 0
    Avg10: float = 0.0
    Avg60: float = 0.0
    Avg300: float = 0.0


class PsiStats(Struct, frozen=True):
    Full: PsiData | None = None
    Some: PsiData | None = None


class CpuUsage(Struct, frozen=True):
    timestamp: int = 0
    usage_core_nano_seconds: int | None = None
    usage_nano_cores: int | None = None
    psi: PsiStats | None = None


class MemoryUsage(Struct, frozen=True):
    timestamp: int = 0
    working_set_bytes: int | None = None
    available_bytes: int | None = None
    usage_bytes: int | None = None
    rss_bytes: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    psi: PsiStats | None = None


class SwapUsage(Struct, frozen=True):
    timestamp: int = 0
    swap_available_bytes: int | None = None
    swap_usage_bytes: int | None = None


class IoUsage(Struct, frozen=True):
    timestamp: int = 0
    psi: PsiStats | None = None


class ContainerAttributes(Struct, frozen=True):
    id: str = ""
    metadata: ContainerMetadata = ContainerMetadata()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class ContainerStats(Struct, frozen=True):
    """`cpu` and `memory` are None for a container that does not run."""

    attributes: ContainerAttributes = ContainerAttributes()
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    writable_layer: FilesystemUsage | None = None
    swap: SwapUsage | None = None
    io: IoUsage | None = None


class NetworkInterfaceUsage(Struct, frozen=True):
    name: str = ""
    rx_bytes: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_errors: int | None = None


class NetworkUsage(Struct, frozen=True):
    timestamp: int = 0
    default_interface: NetworkInterfaceUsage = NetworkInterfaceUsage()
    interfaces: list[NetworkInterfaceUsage] = field(default_factory=list)


class ProcessUsage(Struct, frozen=True):
    timestamp: int = 0
    process_count: int | None = None


class PodSandboxAttributes(Struct, frozen=True):
    id: str = ""
    metadata: PodSandboxMetadata = PodSandboxMetadata()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class LinuxPodSandboxStats(Struct, frozen=True):
    cpu: CpuUsage | None = None
    memory: MemoryUsage | None = None
    network: NetworkUsage | None = None
    process: ProcessUsage | None = None
    containers: list[ContainerStats] = field(default_factory=list)
    io: IoUsage | None = None


class PodSandboxStats(Struct, frozen=True):
    attributes: PodSandboxAttributes = PodSandboxAttributes()
    linux: LinuxPodSandboxStats = LinuxPodSandboxStats()
