"""Where a daemon may die, by operation and in the order in which it is passed; the walks prove the order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ropewalk.pods import containers, sandboxes
from ropewalk.spec import pod
from ropewalk.steps import Step
from tools import node as nodes
from tools import workload

BUNDLE = ["bundle:made", "bundle:mounted", "bundle:written"]
MONITOR = ["monitor:spawned", "monitor:placed", "monitor:going", "monitor:created"]
INIT = ["bundle:made", "init:written", "init:running"]
START = ["start:before", "start:after"]


def done(steps: Sequence[Step], inside: dict[str, list[str]]) -> list[str]:
    """Of a walk forward; `inside`: what the handler passes within a step."""
    return [point for s in steps for point in (f"{s.name}:before", *inside.get(s.name, []), f"{s.name}:after")]


def undone(steps: Sequence[Step], inside: dict[str, list[str]] | None = None) -> list[str]:
    own = inside or {}
    return [
        point
        for s in reversed(steps)
        for point in (f"undo {s.name}:before", *own.get(s.name, []), f"undo {s.name}:after")
    ]


RUN = done(sandboxes.RUN, {})
RUN_SHARED = done(sandboxes.RUN, {"sandbox": INIT})
CREATE = done(containers.CREATE, {"task": [*BUNDLE, *MONITOR]})
STOP = undone(sandboxes.RUN)
REMOVE = undone(containers.CREATE)
ADD = ["cni:begun", "cni ADD bridge:after", "cni ADD portmap:after", "cni:kept"]
DELETE = ["cni DEL portmap:after", "cni DEL bridge:after", "cni:unpinned"]
RUN_CNI = done(sandboxes.RUN, {"network": ADD})
STOP_CNI = undone(sandboxes.RUN, {"network": DELETE})

# own network and a host port · the node's network · shared PID namespace · users of its own
KINDS = ("network", "host", "shared", "users")


def pod_spec(node: nodes.Node, kind: str, **fields: Any) -> pod.PodSpec:
    match kind:
        case "host":
            return workload.pod_spec(logs=node.logs, host_network=True, **fields)
        case "shared":
            security = pod.LinuxSandboxSecurityContext(namespace_options=pod.NamespaceOption(pid=pod.NamespaceMode.POD))
            linux = pod.LinuxPodSandboxConfig(security_context=security)
            return workload.pod_spec(logs=node.logs, linux=linux, **fields)
        case "users":
            ids = [pod.IDMapping(host_id=1 << 20, container_id=0, length=65536)]
            users = pod.UserNamespace(pod.NamespaceMode.POD, ids, ids)
            options = pod.NamespaceOption(pid=pod.NamespaceMode.CONTAINER, userns_options=users)
            security = pod.LinuxSandboxSecurityContext(namespace_options=options)
            linux = pod.LinuxPodSandboxConfig(security_context=security)
            return workload.pod_spec(logs=node.logs, linux=linux, **fields)
        case "runc":
            return workload.pod_spec(logs=node.logs, runtime_handler="runc", **fields)
        case _:
            ports = [pod.PortMapping(container_port=80, host_port=20_000 + int(node.tag, 16) // 2)]
            return workload.pod_spec(logs=node.logs, port_mappings=ports, **fields)
