"""What a shell in a container of a private node wrote: the whole way of a request, from the CRI to the kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

from ropewalk.client import cri, values
from ropewalk.spec import container, image, pod
from tools import images, node, workload


class Said(NamedTuple):
    stdout: str
    stderr: str
    status: values.ContainerStatus


class Shells:
    """Pods and containers made here, by the runtime `handler`, go with `close`."""

    def __init__(self, client: cri.Client, running: node.Node, handler: str) -> None:
        self.client, self.running, self.handler = client, running, handler
        self.made: list[workload.Pod] = []
        self.counter = 0

    async def pod(
        self,
        *,
        network: pod.NamespaceMode = pod.NamespaceMode.POD,
        pid: pod.NamespaceMode = pod.NamespaceMode.CONTAINER,
        ipc: pod.NamespaceMode = pod.NamespaceMode.POD,
        users: pod.UserNamespace | None = None,
        privileged: bool = False,
        sysctls: dict[str, str] | None = None,
        **fields: Any,
    ) -> workload.Pod:
        options = pod.NamespaceOption(network=network, pid=pid, ipc=ipc, userns_options=users)
        security = pod.LinuxSandboxSecurityContext(namespace_options=options, privileged=privileged)
        linux = pod.LinuxPodSandboxConfig(security_context=security, sysctls=sysctls or {})
        await self.client.pull(image.ImageSpec(image=images.BUSYBOX))
        given = workload.pod_spec(logs=self.running.logs, linux=linux, runtime_handler=self.handler, **fields)
        self.made.append(await workload.run_pod(self.client, given))
        return self.made[-1]

    async def start(self, of: workload.Pod, *command: str, name: str = "", **fields: Any) -> str:
        """A running container's id; `fields` are ContainerSpec's, and with `security` a LinuxContainerSecurityContext
        that gets the pod's namespaces."""
        self.counter += 1
        id: str = await of.create(name or f"shell-{self.counter}", *command, **self.fields(of, fields))
        await self.client.start(id)
        return id

    def fields(self, of: workload.Pod, given: dict[str, Any]) -> dict[str, Any]:
        security = given.pop("security", {"seccomp": pod.SecurityProfile()})
        resources = given.pop("resources", pod.LinuxContainerResources())
        context = container.LinuxContainerSecurityContext(namespace_options=of.spec.namespaces, **security)
        return {**given, "linux": container.LinuxContainerConfig(resources=resources, security_context=context)}

    async def say(self, script: str, *, of: workload.Pod | None = None, **fields: Any) -> Said:
        """`sh -c script` to its end in a pod of its own, or in `of`; `fields` as for `start`."""
        home = of or await self.pod(privileged=fields.get("security", {}).get("privileged", False))
        name = f"say-{self.counter}"
        id = await self.start(home, "sh", "-c", script, name=name, **fields)
        status = await home.exited(id)
        lines = [line.split(" ", 3) for line in home.log(name).splitlines()]
        streams = {
            which: "".join(f"{line[3]}\n" for line in lines if line[1] == which) for which in ("stdout", "stderr")
        }
        return Said(streams["stdout"], streams["stderr"], status)

    async def close(self) -> None:
        for one in self.made:
            await one.remove()
