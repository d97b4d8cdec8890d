"""Pods and containers in few words, for tests and the demonstration: what kubelet would send, shortened."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from pathlib import Path
from typing import Any

from ropewalk.client import cri, values
from ropewalk.spec import container, image, pod
from tools import images

STATES = values.ContainerState
SLOWER = float(os.environ.get("DEV_SLOWER", "1"))  # than an ordinary machine; a lab VM is: every wait is so much longer


def pod_spec(name: str = "", *, logs: Path | None = None, host_network: bool = False, **fields: Any) -> pod.PodSpec:
    """`fields` are PodSpec's; the uid is new each time. `logs`: the directory below which its log directory lies."""
    name = name or f"pod-{uuid.uuid4().hex[:8]}"
    metadata = pod.PodSandboxMetadata(name=name, uid=uuid.uuid4().hex, namespace="default")
    if host_network:
        options = pod.NamespaceOption(network=pod.NamespaceMode.NODE, pid=pod.NamespaceMode.CONTAINER)
    else:
        options = pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER)  # kubelet's default
    security = pod.LinuxSandboxSecurityContext(namespace_options=options)
    given: dict[str, Any] = {
        "metadata": metadata,
        "hostname": "" if host_network else name,
        "log_directory": str(logs / metadata.uid) if logs is not None else "",
        "linux": pod.LinuxPodSandboxConfig(security_context=security),
    }
    return pod.PodSpec(**{**given, **fields})


def container_spec(
    name: str = "main", *command: str, reference: str = images.BUSYBOX, of: pod.PodSpec, **fields: Any
) -> container.ContainerSpec:
    """A container of the pod `of`; its log is <name>.log in the pod's directory. `fields` are ContainerSpec's."""
    security = container.LinuxContainerSecurityContext(namespace_options=of.namespaces, seccomp=pod.SecurityProfile())
    given: dict[str, Any] = {
        "metadata": container.ContainerMetadata(name=name),
        "image": image.ImageSpec(image=reference),
        "command": list(command),
        "log_path": f"{name}.log" if of.log_directory else "",
        "linux": container.LinuxContainerConfig(security_context=security),
    }
    return container.ContainerSpec(**{**given, **fields})


class Pod:
    """A pod sandbox that runs, and its containers' ids by name."""

    def __init__(self, client: cri.Client, id: str, spec: pod.PodSpec) -> None:
        self.client, self.id, self.spec = client, id, spec
        self.containers: dict[str, str] = {}

    async def create(self, name: str = "main", *command: str, reference: str = images.BUSYBOX, **fields: Any) -> str:
        spec = container_spec(name, *command, reference=reference, of=self.spec, **fields)
        id = self.containers[name] = await self.client.create(self.id, spec, self.spec)
        return id

    async def start(self, name: str = "main", *command: str, reference: str = images.BUSYBOX, **fields: Any) -> str:
        """Create and start; the container's id."""
        id = await self.create(name, *command, reference=reference, **fields)
        await self.client.start(id)
        return id

    async def exited(self, id: str, timeout: float = 30.0) -> values.ContainerStatus:
        """Its status once it has exited."""
        async with asyncio.timeout(timeout * SLOWER):
            while (status := await self.client.container_status(id)).state is not STATES.EXITED:
                await asyncio.sleep(0.02)
        return status

    async def ip(self) -> str:
        return (await self.client.pod_status(self.id)).network.ip

    def log(self, name: str = "main") -> str:
        """The container's log file as it is now, in the CRI's format; "" before the first line."""
        path = Path(self.spec.log_directory) / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def output(self, name: str = "main") -> str:
        """What the container wrote: the log without times, streams and tags."""
        return "".join(line.split(" ", 3)[3] + "\n" for line in self.log(name).splitlines() if line.count(" ") >= 3)

    async def says(self, text: str, name: str = "main", timeout: float = 20.0) -> str:
        """The container's output once `text` is in it."""
        async with asyncio.timeout(timeout * SLOWER):
            while text not in (output := self.output(name)):
                await asyncio.sleep(0.02)
        return output

    async def remove(self) -> None:
        await self.client.stop_pod(self.id)
        await self.client.remove_pod(self.id)


async def run_pod(client: cri.Client, spec: pod.PodSpec) -> Pod:
    """As kubelet does: the log directory is made first."""
    if spec.log_directory:
        Path(spec.log_directory).mkdir(parents=True, exist_ok=True)
    return Pod(client, await client.run_pod(spec), spec)


async def remove_everything(client: cri.Client) -> None:
    """All pods of an endpoint, at once. The first failure is raised when the others are through."""
    pods = await client.pods()
    results = await asyncio.gather(
        *(Pod(client, item.id, pod.PodSpec()).remove() for item in pods), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def ready(client: cri.Client, deadline: float) -> values.Status:
    """The node's status once it says RuntimeReady and NetworkReady; TimeoutError after `deadline` (monotonic)."""
    while True:
        status = await client.status()
        if status.condition("RuntimeReady").status and status.condition("NetworkReady").status:
            return status
        if time.monotonic() > deadline:
            raise TimeoutError(f"the node does not become ready: {status.status.conditions}")
        await asyncio.sleep(0.02)
