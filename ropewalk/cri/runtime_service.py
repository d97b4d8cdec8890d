"""runtime.v1.RuntimeService: translate, delegate, translate back. What is not here answers UNIMPLEMENTED."""

# ruff: noqa: N802 (the methods have the service's names)

from __future__ import annotations

from collections.abc import AsyncIterator

from ropewalk.cri import filters, frames, info, stats, translate
from ropewalk.cri.status import NodeStatus
from ropewalk.errors import Invalid, NotFound
from ropewalk.network.network import Network
from ropewalk.pods.containers import Containers
from ropewalk.pods.records import Container, Pod
from ropewalk.pods.sandboxes import Sandboxes
from ropewalk.pods.stats import Stats
from ropewalk.runtimes.registry import Handlers
from ropewalk.version import VERSION
from ropewalk.wire.pb import cri_pb2 as pb

API_VERSION = "0.1.0"  # kubelet compares it with its own constant (contract 1.1)


class RuntimeService:
    """The methods that kubelet, crictl and critest call about pods and containers."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        containers: Containers,
        counted: Stats,
        handlers: Handlers,
        network: Network,
        status: NodeStatus,
    ) -> None:
        self._sandboxes = sandboxes
        self._containers = containers
        self._counted = counted
        self._handlers = handlers
        self._network = network
        self._status = status
        self._pod_frames: frames.Frames[Pod] = frames.Frames(translate.pod, sandboxes.pods)
        self._container_frames: frames.Frames[Container] = frames.Frames(translate.container, containers.containers)
        self._encoder = stats.Encoder(sandboxes.pods, containers.containers)

    # Identity and health.

    async def Version(self, request: pb.VersionRequest) -> pb.VersionResponse:
        return pb.VersionResponse(
            version=API_VERSION, runtime_name="ropewalk", runtime_version=VERSION, runtime_api_version="v1"
        )

    async def Status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        return await self._status.response(verbose=request.verbose)

    async def RuntimeConfig(self, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=self._status.cgroup_driver()))

    async def UpdateRuntimeConfig(self, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse:
        cidr = request.runtime_config.network_config.pod_cidr
        if cidr:
            self._network.set_pod_cidr(cidr)
        return pb.UpdateRuntimeConfigResponse()

    # Pod sandboxes.

    async def RunPodSandbox(self, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
        pod = await self._sandboxes.run(translate.pod_spec(request))
        return pb.RunPodSandboxResponse(pod_sandbox_id=pod.id)

    async def StopPodSandbox(self, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
        await self._sandboxes.stop(request.pod_sandbox_id)
        return pb.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse:
        await self._sandboxes.remove(request.pod_sandbox_id)
        return pb.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
        pod = self._sandboxes.get(request.pod_sandbox_id)
        return pb.PodSandboxStatusResponse(
            status=translate.pod_status(pod), info=info.pod(pod) if request.verbose else None
        )

    async def ListPodSandbox(self, request: pb.ListPodSandboxRequest) -> bytes:
        return self._pod_frames.join(filters.pods(self._sandboxes.list(), request.filter))

    async def StreamPodSandboxes(self, request: pb.StreamPodSandboxesRequest) -> AsyncIterator[bytes]:
        for chunk in self._pod_frames.chunks(filters.pods(self._sandboxes.list(), request.filter)):
            yield chunk

    # Containers.

    async def CreateContainer(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        container = await self._containers.create(request.pod_sandbox_id, translate.container_spec(request))
        return pb.CreateContainerResponse(container_id=container.id)

    async def StartContainer(self, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
        await self._containers.start(request.container_id)
        return pb.StartContainerResponse()

    async def StopContainer(self, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
        await self._containers.stop(request.container_id, _seconds(request.timeout))
        return pb.StopContainerResponse()

    async def RemoveContainer(self, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse:
        await self._containers.remove(request.container_id)
        return pb.RemoveContainerResponse()

    async def ContainerStatus(self, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
        container = self._containers.get(request.container_id)
        return pb.ContainerStatusResponse(
            status=translate.container_status(container),
            info=info.container(container, self._handlers.of(container.handler)) if request.verbose else None,
        )

    async def ListContainers(self, request: pb.ListContainersRequest) -> bytes:
        return self._container_frames.join(filters.containers(self._containers.list(), request.filter))

    async def StreamContainers(self, request: pb.StreamContainersRequest) -> AsyncIterator[bytes]:
        for chunk in self._container_frames.chunks(filters.containers(self._containers.list(), request.filter)):
            yield chunk

    async def UpdateContainerResources(
        self, request: pb.UpdateContainerResourcesRequest
    ) -> pb.UpdateContainerResourcesResponse:
        await self._containers.update(request.container_id, translate.limits(request))
        return pb.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(self, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse:
        await self._containers.reopen_log(request.container_id)
        return pb.ReopenContainerLogResponse()

    async def ExecSync(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
        command = list(request.cmd)
        if any("\0" in argument for argument in command):
            raise Invalid("cmd holds a NUL byte")
        result = await self._containers.exec_sync(request.container_id, command, _seconds(request.timeout))
        return pb.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.code)

    async def CheckpointContainer(self, request: pb.CheckpointContainerRequest) -> pb.CheckpointContainerResponse:
        await self._containers.checkpoint(request.container_id, request.location, _seconds(request.timeout))
        return pb.CheckpointContainerResponse()

    # Statistics.

    async def ContainerStats(self, request: pb.ContainerStatsRequest) -> bytes:
        container = self._containers.get(request.container_id)
        found = await self._counted.containers([container.id])
        if not found:
            raise NotFound(f"container {container.id!r} was removed meanwhile")
        return frames.field(1, self._encoder.container(found[0]))

    async def ListContainerStats(self, request: pb.ListContainerStatsRequest) -> bytes:
        return b"".join(await self._container_stats(request.filter))

    async def StreamContainerStats(self, request: pb.StreamContainerStatsRequest) -> AsyncIterator[bytes]:
        for chunk in frames.chunks(await self._container_stats(request.filter)):
            yield chunk

    async def PodSandboxStats(self, request: pb.PodSandboxStatsRequest) -> bytes:
        pod = self._sandboxes.get(request.pod_sandbox_id)
        found = await self._counted.pods([pod.id])
        if not found:
            raise NotFound(f"pod sandbox {pod.id!r} was removed meanwhile")
        return frames.field(1, self._encoder.pod(found[0]))

    async def ListPodSandboxStats(self, request: pb.ListPodSandboxStatsRequest) -> bytes:
        return b"".join(await self._pod_stats(request.filter))

    async def StreamPodSandboxStats(self, request: pb.StreamPodSandboxStatsRequest) -> AsyncIterator[bytes]:
        for chunk in frames.chunks(await self._pod_stats(request.filter)):
            yield chunk

    async def _container_stats(self, filter: pb.ContainerStatsFilter) -> list[bytes]:
        chosen = filters.containers(self._containers.list(), filter)
        found = await self._counted.containers(c.id for c in chosen)
        return [frames.field(1, self._encoder.container(each)) for each in found]

    async def _pod_stats(self, filter: pb.PodSandboxStatsFilter) -> list[bytes]:
        chosen = filters.pods(self._sandboxes.list(), filter)
        found = await self._counted.pods(p.id for p in chosen)
        return [frames.field(1, self._encoder.pod(each)) for each in found]


def _seconds(timeout: int) -> float:
    if timeout < 0:
        raise Invalid(f"timeout is {timeout} s; it cannot be negative")
    return float(timeout)
