"""The same pod on every runtime handler that works on a node, one after the other: what is between it and the node,
what it sees, what it costs, and what it is not allowed to have."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from ropewalk.client import admin, cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec import pod
from tools import workload

HEADS = ("runtime", "boundary", "kernel inside", "running after", "memory", "refused")
WARM = 2  # lives; the first one also compiles a seccomp filter and fills caches, the last one is told

NODE, CONTAINER = pod.NamespaceMode.NODE, pod.NamespaceMode.CONTAINER


def asking(**fields: object) -> pod.LinuxPodSandboxConfig:
    context = {"namespace_options": pod.NamespaceOption(pid=CONTAINER), **fields}
    return pod.LinuxPodSandboxConfig(security_context=pod.LinuxSandboxSecurityContext(**context))  # type: ignore[arg-type]


def wishes(profile: Path) -> dict[str, pod.LinuxPodSandboxConfig]:
    """`profile`: a seccomp profile of the user's."""
    own = pod.SecurityProfile(pod.ProfileType.LOCALHOST, str(profile))
    return {
        "node's network": asking(namespace_options=pod.NamespaceOption(network=NODE, pid=CONTAINER)),
        "node's processes": asking(namespace_options=pod.NamespaceOption(pid=NODE)),
        "privileged": asking(privileged=True),
        "own seccomp profile": asking(seccomp=own),
    }


class Row(NamedTuple):
    """One line of the table."""

    runtime: str
    boundary: str
    kernel: str
    milliseconds: float
    memory: int  # bytes of the pod's control group: the container, its monitor, a kernel of its own
    refused: list[str]

    def cells(self) -> tuple[str, ...]:
        refused = ", ".join(self.refused) or "nothing"
        took, memory = f"{self.milliseconds:.0f} ms", f"{self.memory / 1e6:.1f} MB"
        return self.runtime, self.boundary, self.kernel, took, memory, refused


async def working(address: str) -> list[admin.Runtime]:
    async with admin.Client(address) as client:
        return [runtime for runtime in await client.runtimes() if runtime.works]


async def compare(client: cri.Client, runtime: admin.Runtime, logs: Path) -> Row:
    for _ in range(WARM - 1):
        await live(client, runtime.name, logs)
    kernel, took, memory = await live(client, runtime.name, logs)
    profile = logs / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    asked = wishes(profile)
    refused = [wish for wish, wanted in asked.items() if not await granted(client, runtime.name, wanted)]
    return Row(runtime.name, runtime.boundary, kernel, took * 1000, memory, refused)


async def live(client: cri.Client, handler: str, logs: Path) -> tuple[str, float, int]:
    """A pod from RunPodSandbox to its removal: the kernel seen inside, seconds until it ran, its memory."""
    before = time.perf_counter()
    made = await workload.run_pod(client, workload.pod_spec(logs=logs, runtime_handler=handler))
    try:
        id = await made.start("main", "sleep", "600")
        took = time.perf_counter() - before
        seen = await client.exec_sync(id, ["uname", "-sr"], timeout=20)
        (stats,) = await client.pod_stats(id=made.id)
        memory = stats.linux.memory
        used = (memory.working_set_bytes or 0) if memory is not None else 0
        return seen.stdout.decode().strip(), took, used
    finally:
        await made.remove()


async def granted(client: cri.Client, handler: str, wanted: pod.LinuxPodSandboxConfig) -> bool:
    spec = workload.pod_spec(linux=wanted, runtime_handler=handler)
    try:
        made = await workload.run_pod(client, spec)
    except RopewalkError as error:
        if error.kind is not Kind.UNSUPPORTED:
            raise
        return False
    await made.remove()
    return True
