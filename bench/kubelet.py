"""A lean CRI client that asks as kubelet does. Requests are built before the clock runs; the same for every product.

Synchronous gRPC: an empty call costs about 0.3 ms of the client, which is part of every latency on both sides.
"""

from __future__ import annotations

import signal
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import message_factory

from bench import images
from bench.accounting import Group
from ropewalk.wire.pb import cri_pb2 as pb

GRACE = 10  # seconds of StopContainer; the payload needs none of them
LIMIT = 120.0  # seconds for one call
# What kubelet sends with every container whose procMount is the default (kubelet, container_manager).
MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Kubelet:
    """A channel to one endpoint; `call` sends any request of runtime.v1."""

    def __init__(self, address: str, group: Group, logs: str) -> None:
        self.address, self.group, self.logs = address, group, logs
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)]
        self._channel = grpc.insecure_channel(f"unix:{address}", options)
        self._methods: dict[str, Callable[..., Any]] = {}
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if not method.server_streaming:
                    self._methods[method.name] = self._channel.unary_unary(
                        f"/{service.full_name}/{method.name}",
                        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
                        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
                    )

    def call(self, name: str, request: Any) -> Any:
        return self._methods[name](request, timeout=LIMIT)

    def close(self) -> None:
        self._channel.close()

    def pod(self, *, host_network: bool = False, handler: str = "") -> Pod:
        return Pod(self, host_network=host_network, handler=handler)

    def pull(self, reference: str) -> None:
        self.call("PullImage", pb.PullImageRequest(image=pb.ImageSpec(image=reference)))

    def remove_image(self, reference: str) -> None:
        self.call("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=reference)))

    def ready(self) -> bool:
        """Not yet, too, is the answer of a daemon that listens but cannot say yet."""
        try:
            reply = self.call("Status", pb.StatusRequest())
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        conditions = reply.status.conditions
        return {"RuntimeReady", "NetworkReady"} <= {condition.type for condition in conditions if condition.status}


def listens(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


class Pod:
    """One pod to be: its cgroup is there, its requests are built, nothing was sent."""

    def __init__(self, kubelet: Kubelet, *, host_network: bool, handler: str = "") -> None:
        self.kubelet = kubelet
        self.uid = uuid.uuid4().hex
        self.cgroup = f"{kubelet.group.pods}/pod{self.uid}"
        self.id = ""
        self.containers: list[str] = []
        network = pb.NamespaceMode.NODE if host_network else pb.NamespaceMode.POD
        self._namespaces = pb.NamespaceOption(network=network, pid=pb.NamespaceMode.CONTAINER)
        default = pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault)
        security = pb.LinuxSandboxSecurityContext(namespace_options=self._namespaces, seccomp=default)
        self._config = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=self.uid[:12], uid=self.uid, namespace="bench"),
            hostname="" if host_network else self.uid[:12],
            log_directory=f"{kubelet.logs}/{self.uid}",
            dns_config=pb.DNSConfig(servers=["10.96.0.10"], searches=["svc.cluster.local"], options=["ndots:5"]),
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=self.cgroup, security_context=security),
        )
        self._run = pb.RunPodSandboxRequest(config=self._config, runtime_handler=handler)
        self._container = self._container_config("main")
        kubelet.group.make(self.cgroup)

    def _container_config(self, name: str) -> pb.ContainerConfig:
        security = pb.LinuxContainerSecurityContext(
            namespace_options=self._namespaces,
            seccomp=pb.SecurityProfile(profile_type=pb.SecurityProfile.RuntimeDefault),
            masked_paths=MASKED,
            readonly_paths=READ_ONLY,
        )
        return pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=images.PAYLOAD),
            log_path=f"{name}.log",
            linux=pb.LinuxContainerConfig(
                security_context=security, resources=pb.LinuxContainerResources(cpu_shares=2, oom_score_adj=1000)
            ),
        )

    def run(self) -> None:
        self.id = self.kubelet.call("RunPodSandbox", self._run).pod_sandbox_id

    def start(self, name: str = "main") -> str:
        """CreateContainer, StartContainer; the container's id."""
        config = self._container if name == "main" else self._container_config(name)
        request = pb.CreateContainerRequest(pod_sandbox_id=self.id, config=config, sandbox_config=self._config)
        id: str = self.kubelet.call("CreateContainer", request).container_id
        self.containers.append(id)
        self.kubelet.call("StartContainer", pb.StartContainerRequest(container_id=id))
        return id

    def exec(self, *command: str) -> None:
        request = pb.ExecSyncRequest(container_id=self.containers[0], cmd=command, timeout=GRACE)
        reply = self.kubelet.call("ExecSync", request)
        assert reply.exit_code == 0, f"{command} in {self.containers[0]}: exit code {reply.exit_code}"

    def settle(self) -> None:
        """Until each payload handles SIGTERM. Before that, the kernel drops it: process 1 of a PID namespace has no
        default action (pid_namespaces(7)), and the whole grace period would pass."""
        for id in self.containers:
            deadline = time.monotonic() + GRACE
            while not self.kubelet.group.handles(f"{self.cgroup}/{id}", signal.SIGTERM):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the payload of {id} does not handle SIGTERM")
                time.sleep(0.0005)

    def stop(self) -> None:
        """StopContainer for each."""
        for id in self.containers:
            self.kubelet.call("StopContainer", pb.StopContainerRequest(container_id=id, timeout=GRACE))

    def remove(self) -> None:
        """As kubelet ends a pod and collects it: its containers stop first, then the sandbox."""
        self.stop()
        self.kubelet.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id=self.id))
        for id in self.containers:
            self.kubelet.call("RemoveContainer", pb.RemoveContainerRequest(container_id=id))
        self.kubelet.call("RemovePodSandbox", pb.RemovePodSandboxRequest(pod_sandbox_id=self.id))

    def forget(self) -> None:
        """After `remove`: until nothing of it runs, and its cgroup, which is kubelet's, is gone."""
        self.kubelet.group.wait_empty(self.cgroup)
        self.kubelet.group.remove(self.cgroup)


def wait_ready(kubelet: Kubelet, deadline: float) -> None:
    while not kubelet.ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{kubelet.address} does not become ready")
        time.sleep(0.002)
