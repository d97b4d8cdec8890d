"""Between runtime.v1's messages and our specs and records.

Requests are translated by structure (wire/structural.py: the specs have the CRI's field names); what follows here
is what the structure cannot say: which fields a request must have, and how a record is told.
"""

from __future__ import annotations

import signal
from typing import Any, cast

from msgspec.structs import replace

from ropewalk.errors import Invalid
from ropewalk.images.store import Image
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase
from ropewalk.spec.container import ContainerMetadata, ContainerSpec, Mount
from ropewalk.spec.image import AuthConfig, ImageSpec
from ropewalk.spec.pod import LinuxContainerResources, NamespaceOption, PodSandboxMetadata, PodSpec
from ropewalk.wire import structural
from ropewalk.wire.pb import cri_pb2 as pb

PODS = structural.pair(PodSpec, pb.PodSandboxConfig)
CONTAINERS = structural.pair(ContainerSpec, pb.ContainerConfig)
IMAGES = structural.pair(ImageSpec, pb.ImageSpec)
AUTH = structural.pair(AuthConfig, pb.AuthConfig)
RESOURCES = structural.pair(LinuxContainerResources, pb.LinuxContainerResources)
_POD_METADATA = structural.pair(PodSandboxMetadata, pb.PodSandboxMetadata)
_CONTAINER_METADATA = structural.pair(ContainerMetadata, pb.ContainerMetadata)
_NAMESPACES = structural.pair(NamespaceOption, pb.NamespaceOption)
_MOUNTS = structural.pair(Mount, pb.Mount)

POD_STATES = {PodPhase.READY: pb.SANDBOX_READY, PodPhase.NOTREADY: pb.SANDBOX_NOTREADY}
CONTAINER_STATES = {
    ContainerPhase.CREATED: pb.CONTAINER_CREATED,
    ContainerPhase.RUNNING: pb.CONTAINER_RUNNING,
    ContainerPhase.EXITED: pb.CONTAINER_EXITED,
}
_RTMIN, _RTMAX, _RTMIDDLE = 34, 64, 49  # signal(7), as the C library numbers them; up to 49 is named from SIGRTMIN


def pod_spec(request: pb.RunPodSandboxRequest) -> PodSpec:
    """What to run. Raises Invalid naming the field."""
    spec = PODS.read(request.config, "config")
    for name in ("name", "uid", "namespace"):
        _require(getattr(spec.metadata, name), f"config.metadata.{name}")
    return replace(spec, runtime_handler=request.runtime_handler)


def container_spec(request: pb.CreateContainerRequest) -> ContainerSpec:
    """What to create. Raises Invalid naming the field."""
    spec = CONTAINERS.read(request.config, "config")
    _require(spec.metadata.name, "config.metadata.name")
    _require(spec.image.image, "config.image.image")
    for env in spec.envs:
        if "=" in env.key or not env.key or b"\0" in env.value:
            raise Invalid(f"config.envs has {env.key!r}, which cannot name an environment variable or holds a NUL byte")
    return spec


def limits(request: pb.UpdateContainerResourcesRequest) -> LinuxContainerResources:
    """The new ones. Raises Invalid naming the field."""
    if request.HasField("windows"):
        raise Invalid(f"windows is not supported: {structural.UNSUPPORTED['ContainerResources.windows']}")
    return RESOURCES.read(request.linux, "linux")


def image_name(spec: pb.ImageSpec) -> str:
    """The reference of an image request. Raises Invalid if it is empty."""
    name = IMAGES.read(spec, "image").image
    _require(name, "image.image")
    return name


def auth(request: pb.PullImageRequest) -> AuthConfig | None:
    return AUTH.read(request.auth, "auth") if request.HasField("auth") else None


def _require(value: object, name: str) -> None:
    if not value:
        raise Invalid(f"{name} is empty")


def pod(record: Pod) -> pb.PodSandbox:
    """As ListPodSandbox tells it."""
    spec = record.spec
    return pb.PodSandbox(
        id=record.id,
        metadata=_metadata(spec),
        state=POD_STATES[record.phase],
        created_at=record.created_at,
        labels=spec.labels,
        annotations=spec.annotations,
        runtime_handler=spec.runtime_handler,
    )


def pod_status(record: Pod) -> pb.PodSandboxStatus:
    """As PodSandboxStatus tells it; addresses come from the attachment, never from the namespace. A pod that is not
    ready has none: they may be another's by now."""
    spec = record.spec
    is_ready = record.phase is PodPhase.READY
    ips = record.attachment.ips if is_ready and record.attachment is not None else []
    return pb.PodSandboxStatus(
        id=record.id,
        metadata=_metadata(spec),
        state=POD_STATES[record.phase],
        created_at=record.created_at,
        network=pb.PodSandboxNetworkStatus(
            ip=ips[0] if ips else "", additional_ips=[pb.PodIP(ip=ip) for ip in ips[1:]]
        ),
        linux=pb.LinuxPodSandboxStatus(
            namespaces=pb.Namespace(options=cast(pb.NamespaceOption, _NAMESPACES.write(spec.namespaces)))
        ),
        labels=spec.labels,
        annotations=spec.annotations,
        runtime_handler=spec.runtime_handler,
    )


def pod_attributes(record: Pod) -> pb.PodSandboxAttributes:
    spec = record.spec
    return pb.PodSandboxAttributes(
        id=record.id, metadata=_metadata(spec), labels=spec.labels, annotations=spec.annotations
    )


def _metadata(spec: PodSpec) -> pb.PodSandboxMetadata:
    return cast(pb.PodSandboxMetadata, _POD_METADATA.write(spec.metadata))


def container(record: Container) -> pb.Container:
    """As ListContainers tells it."""
    spec = record.spec
    return pb.Container(
        id=record.id,
        pod_sandbox_id=record.pod_id,
        metadata=_container_metadata(spec),
        image=cast(pb.ImageSpec, IMAGES.write(spec.image)),
        image_ref=record.image_id,
        image_id=record.image_id,
        state=CONTAINER_STATES[record.phase],
        created_at=record.created_at,
        labels=spec.labels,
        annotations=spec.annotations,
    )


def container_status(record: Container) -> pb.ContainerStatus:
    """As ContainerStatus tells it; `mounts` are those of the request only (contract 1.3)."""
    spec = record.spec
    image = pb.ImageSpec(image=record.image_name, annotations=spec.image.annotations)
    image.user_specified_image = spec.image.user_specified_image
    user = record.user
    return pb.ContainerStatus(
        id=record.id,
        metadata=_container_metadata(spec),
        state=CONTAINER_STATES[record.phase],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=image,
        image_ref=record.image_ref,
        image_id=record.image_id,
        reason=record.reason,
        message=record.message,
        labels=spec.labels,
        annotations=spec.annotations,
        mounts=[cast(pb.Mount, _MOUNTS.write(mount)) for mount in spec.mounts],
        log_path=record.log_path,
        resources=pb.ContainerResources(
            linux=cast(pb.LinuxContainerResources, RESOURCES.write(record.resources)),
        ),
        user=pb.ContainerUser(
            linux=pb.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.supplemental_groups)
        ),
        stop_signal=cast(Any, spec.stop_signal or stop_signal(record.stop_signal)),
    )


def container_attributes(record: Container) -> pb.ContainerAttributes:
    spec = record.spec
    return pb.ContainerAttributes(
        id=record.id, metadata=_container_metadata(spec), labels=spec.labels, annotations=spec.annotations
    )


def _container_metadata(spec: ContainerSpec) -> pb.ContainerMetadata:
    return cast(pb.ContainerMetadata, _CONTAINER_METADATA.write(spec.metadata))


def stop_signal(number: int) -> int:
    """The CRI's number of the kernel's signal `number`; 0 if it has none."""
    if _RTMIN <= number <= _RTMAX:
        low, high = number - _RTMIN, _RTMAX - number
        name = f"RTMINPLUS{low}" if number <= _RTMIDDLE else f"RTMAXMINUS{high}"
        name = {"RTMINPLUS0": "RTMIN", "RTMAXMINUS0": "RTMAX"}.get(name, name)
        return pb.Signal.Value(f"SIGNAL_SIG{name}")
    try:
        name = signal.Signals(number).name
    except ValueError:
        return 0
    return dict(pb.Signal.items()).get(f"SIGNAL_{name}", 0)


def image(record: Image) -> pb.Image:
    """As ListImages and ImageStatus tell it: `uid` if USER is a number, else `username` (contract 1.4)."""
    return pb.Image(
        id=record.id,
        repo_tags=record.tags,
        repo_digests=record.digests,
        size=record.size,
        uid=None if record.uid is None else pb.Int64Value(value=record.uid),
        username=record.username,
        pinned=record.pinned,
    )
