"""A typed client of any runtime.v1 endpoint: Ropewalk's, containerd's, CRI-O's."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message
from msgspec import Struct

from ropewalk.client import endpoint, values
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.image import AuthConfig, ImageSpec
from ropewalk.spec.pod import LinuxContainerResources, PodSpec
from ropewalk.wire import structural
from ropewalk.wire.pb import cri_pb2 as pb

T = TypeVar("T", bound=Struct)

TIMEOUT = 120.0  # seconds, as kubelet's runtimeRequestTimeout
RUN_TIMEOUT = 240.0  # RunPodSandbox has twice that (contract 1.1)
_RUNTIME = pb.DESCRIPTOR.services_by_name["RuntimeService"]
_IMAGES = pb.DESCRIPTOR.services_by_name["ImageService"]


def _read(type: type[T], message: Message) -> T:
    return structural.pair(type, message.__class__).read(message)


def _write(value: Struct, message: type[Message]) -> Any:
    return structural.pair(type(value), message).write(value)


class Client(endpoint.Endpoint):
    """Methods raise RopewalkError with the kind of the endpoint's status code; ids may be unique prefixes where the
    endpoint accepts them."""

    async def _runtime(self, name: str, request: Message, timeout: float | None = TIMEOUT) -> Any:
        return await self._unary(_RUNTIME, name, request, timeout)

    async def _image(self, name: str, request: Message, timeout: float | None = TIMEOUT) -> Any:
        return await self._unary(_IMAGES, name, request, timeout)

    # The node.

    async def version(self, *, timeout: float = 5.0) -> values.Version:
        return _read(values.Version, await self._runtime("Version", pb.VersionRequest(), timeout))

    async def status(self, *, verbose: bool = False) -> values.Status:
        return _read(values.Status, await self._runtime("Status", pb.StatusRequest(verbose=verbose)))

    async def cgroup_driver(self) -> str:
        """ "systemd" or "cgroupfs"."""
        reply = await self._runtime("RuntimeConfig", pb.RuntimeConfigRequest())
        return str(pb.CgroupDriver.Name(reply.linux.cgroup_driver)).lower()

    async def set_pod_cidr(self, cidr: str) -> None:
        config = pb.RuntimeConfig(network_config=pb.NetworkConfig(pod_cidr=cidr))
        await self._runtime("UpdateRuntimeConfig", pb.UpdateRuntimeConfigRequest(runtime_config=config))

    # Pod sandboxes.

    async def run_pod(self, spec: PodSpec, *, timeout: float = RUN_TIMEOUT) -> str:
        """The id of the READY pod sandbox."""
        request = pb.RunPodSandboxRequest(
            config=_write(spec, pb.PodSandboxConfig), runtime_handler=spec.runtime_handler
        )
        return str((await self._runtime("RunPodSandbox", request, timeout)).pod_sandbox_id)

    async def stop_pod(self, id: str) -> None:
        await self._runtime("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=id))

    async def remove_pod(self, id: str) -> None:
        await self._runtime("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=id))

    async def pod_status(self, id: str) -> values.PodSandboxStatus:
        return (await self.inspect_pod(id))[0]

    async def inspect_pod(self, id: str, *, verbose: bool = False) -> tuple[values.PodSandboxStatus, dict[str, str]]:
        """The status, and if `verbose` what else the endpoint says (JSON texts by name)."""
        reply = await self._runtime("PodSandboxStatus", pb.PodSandboxStatusRequest(pod_sandbox_id=id, verbose=verbose))
        return _read(values.PodSandboxStatus, reply.status), dict(reply.info)

    async def pods(
        self, *, id: str = "", state: values.PodSandboxState | None = None, labels: dict[str, str] | None = None
    ) -> list[values.PodSandbox]:
        filter = pb.PodSandboxFilter(id=id, label_selector=labels)
        if state is not None:
            filter.state.state = int(state)  # type: ignore[assignment]
        reply = await self._runtime("ListPodSandbox", pb.ListPodSandboxRequest(filter=filter))
        return [_read(values.PodSandbox, item) for item in reply.items]

    # Containers.

    async def create(self, pod_id: str, spec: ContainerSpec, pod: PodSpec) -> str:
        """The id of the CREATED container. `pod` is the spec that the pod sandbox was run with."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=pod_id,
            config=_write(spec, pb.ContainerConfig),
            sandbox_config=_write(pod, pb.PodSandboxConfig),
        )
        return str((await self._runtime("CreateContainer", request)).container_id)

    async def start(self, id: str) -> None:
        await self._runtime("StartContainer", pb.StartContainerRequest(container_id=id))

    async def stop(self, id: str, timeout: int = 10) -> None:
        """`timeout`: whole seconds from the stop signal to SIGKILL."""
        request = pb.StopContainerRequest(container_id=id, timeout=timeout)
        await self._runtime("StopContainer", request, TIMEOUT + timeout)

    async def remove(self, id: str) -> None:
        await self._runtime("RemoveContainer", pb.RemoveContainerRequest(container_id=id))

    async def container_status(self, id: str) -> values.ContainerStatus:
        return (await self.inspect(id))[0]

    async def inspect(self, id: str, *, verbose: bool = False) -> tuple[values.ContainerStatus, dict[str, str]]:
        """The status, and if `verbose` what else the endpoint says (JSON texts by name)."""
        reply = await self._runtime("ContainerStatus", pb.ContainerStatusRequest(container_id=id, verbose=verbose))
        return _read(values.ContainerStatus, reply.status), dict(reply.info)

    async def containers(
        self,
        *,
        id: str = "",
        pod: str = "",
        state: values.ContainerState | None = None,
        labels: dict[str, str] | None = None,
    ) -> list[values.Container]:
        filter = pb.ContainerFilter(id=id, pod_sandbox_id=pod, label_selector=labels)
        if state is not None:
            filter.state.state = int(state)  # type: ignore[assignment]
        reply = await self._runtime("ListContainers", pb.ListContainersRequest(filter=filter))
        return [_read(values.Container, item) for item in reply.containers]

    async def update(self, id: str, resources: LinuxContainerResources) -> None:
        linux = _write(resources, pb.LinuxContainerResources)
        await self._runtime(
            "UpdateContainerResources", pb.UpdateContainerResourcesRequest(container_id=id, linux=linux)
        )

    async def reopen_log(self, id: str) -> None:
        await self._runtime("ReopenContainerLog", pb.ReopenContainerLogRequest(container_id=id))

    async def exec_sync(self, id: str, command: list[str], *, timeout: int = 0) -> values.ExecResult:
        """Run to its end; `timeout` whole seconds, 0 for none."""
        request = pb.ExecSyncRequest(container_id=id, cmd=command, timeout=timeout)
        reply = await self._runtime("ExecSync", request, TIMEOUT + timeout if timeout else None)
        return _read(values.ExecResult, reply)

    async def checkpoint(self, id: str, location: str, *, timeout: int = 0) -> None:
        """Write an archive at `location`, a path of the endpoint's node; `timeout` whole seconds, 0 for its default."""
        request = pb.CheckpointContainerRequest(container_id=id, location=location, timeout=timeout)
        await self._runtime("CheckpointContainer", request, max(TIMEOUT, timeout))

    # Statistics.

    async def container_stats(
        self, *, id: str = "", pod: str = "", labels: dict[str, str] | None = None
    ) -> list[values.ContainerStats]:
        filter = pb.ContainerStatsFilter(id=id, pod_sandbox_id=pod, label_selector=labels)
        reply = await self._runtime("ListContainerStats", pb.ListContainerStatsRequest(filter=filter))
        return [_read(values.ContainerStats, item) for item in reply.stats]

    async def pod_stats(self, *, id: str = "") -> list[values.PodSandboxStats]:
        filter = pb.PodSandboxStatsFilter(id=id)
        reply = await self._runtime("ListPodSandboxStats", pb.ListPodSandboxStatsRequest(filter=filter))
        return [_read(values.PodSandboxStats, item) for item in reply.stats]

    # Images.

    async def images(self, name: str = "") -> list[values.Image]:
        request = pb.ListImagesRequest(filter=pb.ImageFilter(image=pb.ImageSpec(image=name)))
        return [_read(values.Image, item) for item in (await self._image("ListImages", request)).images]

    async def image(self, name: str) -> values.Image | None:
        """By id, tag or digest; None if the node does not have it."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        reply = await self._image("ImageStatus", request)
        return _read(values.Image, reply.image) if reply.HasField("image") else None

    async def pull(self, spec: ImageSpec, auth: AuthConfig | None = None, *, timeout: float | None = None) -> str:
        """The id of the image; leaving (cancelling) ends the pull."""
        request = pb.PullImageRequest(image=_write(spec, pb.ImageSpec))
        if auth is not None:
            request.auth.CopyFrom(_write(auth, pb.AuthConfig))
        return str((await self._image("PullImage", request, timeout)).image_ref)

    async def remove_image(self, name: str) -> None:
        await self._image("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=name)))

    async def image_fs_info(self) -> values.ImageFsInfo:
        return _read(values.ImageFsInfo, await self._image("ImageFsInfo", pb.ImageFsInfoRequest()))
