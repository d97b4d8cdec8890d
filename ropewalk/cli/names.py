"""Which container or pod a name means: an id, a name, a prefix of one id; `pod/container` where names meet.

Pure: the lists come from the endpoint. A pod that `ropewalk run` made (RUN) and its container are one thing to people:
what stops or removes the container does it to the pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ropewalk.errors import Invalid, NotFound

if TYPE_CHECKING:
    from ropewalk.client.values import Container, PodSandbox

    Target = Container | PodSandbox

I = TypeVar("I", "Container", "PodSandbox")  # noqa: E741 (an item)

RUN = "ropewalk.dev/run"  # the label of pods that `ropewalk run` made; its value is their name
_RUNNING = 1
_READY = 0


def find_container(name: str, containers: Sequence[Container], pods: Sequence[PodSandbox]) -> Container:
    """By id, pod/container, name, the name or id of a pod with one container, id prefix. Raises NotFound, Invalid."""
    for item in containers:
        if item.id == name:
            return item
    pod_names = {pod.id: pod.metadata.name for pod in pods}
    owner, slash, inner = name.partition("/")
    if slash:
        inside = {pod.id for pod in pods if pod.metadata.name == owner or (owner and pod.id.startswith(owner))}
        found = [c for c in containers if c.pod_sandbox_id in inside and c.metadata.name == inner]
        return _one("container", name, _newest(found), pod_names)
    found = [c for c in containers if c.metadata.name == name]
    if found:
        found = [c for c in found if pod_names.get(c.pod_sandbox_id) == name] or found
        return _one("container", name, _newest(found), pod_names)
    found = [c for c in containers if pod_names.get(c.pod_sandbox_id) == name]
    found = found or [c for c in containers if name and c.id.startswith(name)]
    found = found or [c for c in containers if name and c.pod_sandbox_id.startswith(name)]
    return _one("container", name, _newest(found), pod_names)


def find_pod(name: str, pods: Sequence[PodSandbox]) -> PodSandbox:
    """By id, name, id prefix; of the attempts of one pod, the last. Raises NotFound, Invalid."""
    for item in pods:
        if item.id == name:
            return item
    found = [pod for pod in pods if pod.metadata.name == name]
    found = found or [pod for pod in pods if name and pod.id.startswith(name)]
    return _one("pod", name, _attempts(found), {})


def find_target(name: str, containers: Sequence[Container], pods: Sequence[PodSandbox]) -> Target:
    """What `stop` and `rm` act on. A pod's name comes before a container's: it means the container too."""
    item = _target(name, containers, pods)
    for pod in pods:
        if getattr(item, "pod_sandbox_id", "") == pod.id and RUN in pod.labels:
            return pod
    return item


def _target(name: str, containers: Sequence[Container], pods: Sequence[PodSandbox]) -> Target:
    everything: list[Target] = [*pods, *containers]
    exact = [item for item in everything if item.id == name]
    if exact:
        return exact[0]
    if any(pod.metadata.name == name for pod in pods):
        return find_pod(name, pods)
    if "/" in name or any(container.metadata.name == name for container in containers):
        return find_container(name, containers, pods)
    prefixed = [item for item in everything if name and item.id.startswith(name)]
    if len(prefixed) > 1:
        raise Invalid(f"{name!r} begins the ids {', '.join(i.id[:16] for i in prefixed[:5])}", hint="give more of one")
    if not prefixed:
        raise NotFound(f"no container or pod {name!r}", hint="`ropewalk ps -a` and `ropewalk pods` list them")
    return prefixed[0]


def _newest(found: Iterable[Container]) -> list[Container]:
    """Of the containers of one name in one pod, which are restarts of each other, the last."""
    newest: dict[tuple[str, str], Container] = {}
    for item in sorted(found, key=lambda c: (c.metadata.attempt, c.created_at)):
        newest[item.pod_sandbox_id, item.metadata.name] = item
    return list(newest.values())


def _attempts(found: Iterable[PodSandbox]) -> list[PodSandbox]:
    newest: dict[tuple[str, str, str], PodSandbox] = {}
    for item in sorted(found, key=lambda p: (p.metadata.attempt, p.created_at)):
        newest[item.metadata.namespace, item.metadata.name, item.metadata.uid] = item
    return list(newest.values())


def _one(kind: str, name: str, found: list[I], pod_names: dict[str, str]) -> I:
    """The only one; of several, the only one that runs."""
    alive = _READY if kind == "pod" else _RUNNING
    choice = found if len(found) == 1 else [item for item in found if item.state == alive]
    if len(choice) == 1:
        return choice[0]
    if not found:
        command = "pods" if kind == "pod" else "ps -a"
        raise NotFound(f"no {kind} {name!r}", hint=f"`ropewalk {command}` lists them")
    listed = ", ".join(sorted(_called(item, pod_names) for item in found)[:8])
    raise Invalid(f"{name!r} may mean {len(found)} {kind}s: {listed}", hint="name one of them, or give its id")


def _called(item: Container | PodSandbox, pod_names: dict[str, str]) -> str:
    pod = pod_names.get(getattr(item, "pod_sandbox_id", ""))
    return f"{pod}/{item.metadata.name} ({item.id[:12]})" if pod else f"{item.metadata.name} ({item.id[:12]})"
