"""What a list's filter lets through: all given conditions hold; ids may be prefixes; labels are equal exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ropewalk.cri import translate
from ropewalk.pods.records import Container, Pod
from ropewalk.wire.pb import cri_pb2 as pb


def pods(pods: Sequence[Pod], filter: pb.PodSandboxFilter | pb.PodSandboxStatsFilter) -> Sequence[Pod]:
    if filter.id:
        pods = [pod for pod in pods if pod.id.startswith(filter.id)]
    if isinstance(filter, pb.PodSandboxFilter) and filter.HasField("state"):
        pods = [pod for pod in pods if translate.POD_STATES[pod.phase] == filter.state.state]
    if filter.label_selector:
        pods = [pod for pod in pods if _selected(pod.spec.labels, filter.label_selector.items())]
    return pods


def containers(
    containers: Sequence[Container], filter: pb.ContainerFilter | pb.ContainerStatsFilter
) -> Sequence[Container]:
    if filter.id:
        containers = [c for c in containers if c.id.startswith(filter.id)]
    if filter.pod_sandbox_id:
        containers = [c for c in containers if c.pod_id.startswith(filter.pod_sandbox_id)]
    if isinstance(filter, pb.ContainerFilter) and filter.HasField("state"):
        containers = [c for c in containers if translate.CONTAINER_STATES[c.phase] == filter.state.state]
    if filter.label_selector:
        containers = [c for c in containers if _selected(c.spec.labels, filter.label_selector.items())]
    return containers


def _selected(labels: Mapping[str, str], selector: Iterable[tuple[str, str]]) -> bool:
    return all(labels.get(key) == value for key, value in selector)
