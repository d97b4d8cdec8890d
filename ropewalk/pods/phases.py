"""Facts change records: pure transitions (record, fact) -> record, idempotent and tolerant of order.

A second report of the same fact returns the record itself, so nothing is written and nobody is told.
"""

from __future__ import annotations

from msgspec.structs import replace

from ropewalk.network.attachment import Attachment
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase, User
from ropewalk.runtimes.handler import Exit, Task
from ropewalk.spec.pod import LinuxContainerResources

UNKNOWN = "Unknown"  # nobody saw it end (contract 6.1)
LOST_CODE = 255
START_ERROR_CODE = 128


def attached(pod: Pod, attachment: Attachment) -> Pod:
    """It has its network, and this is known of it now."""
    return replace(pod, attachment=attachment)


def sandboxed(pod: Pod, task: Task) -> Pod:
    """What its handler needs for it runs."""
    return replace(pod, task=task)


def ready(pod: Pod, at: int) -> Pod:
    """Every step of RUN is done."""
    return replace(pod, phase=PodPhase.READY, created_at=at) if pod.phase is PodPhase.MAKING else pod


def notready(pod: Pod) -> Pod:
    """Its own process died, its namespaces are gone, the node was restarted, or it is being stopped."""
    return replace(pod, phase=PodPhase.NOTREADY) if pod.phase is PodPhase.READY else pod


def torn_down(pod: Pod) -> Pod:
    """STOP has released every kernel object."""
    return pod if pod.torn_down else replace(pod, phase=PodPhase.NOTREADY, torn_down=True, task=None)


def tasked(container: Container, task: Task) -> Container:
    """Its processes exist; they wait for start."""
    return replace(container, task=task)


def created(container: Container, user: User, at: int) -> Container:
    if container.phase is not ContainerPhase.MAKING:
        return container
    return replace(container, phase=ContainerPhase.CREATED, user=user, created_at=at)


def started(container: Container, at: int) -> Container:
    """The process runs. It may have ended before this was reported: then only the time is new."""
    if container.started_at:
        return container
    if container.phase is not ContainerPhase.CREATED:
        return replace(container, started_at=min(at, container.finished_at or at))
    return replace(container, phase=ContainerPhase.RUNNING, started_at=at)


def start_failed(container: Container, message: str, at: int) -> Container:
    """containerd's words: exit code 128, reason StartError (contract 1.3)."""
    if container.phase is ContainerPhase.EXITED and container.reason == "StartError":
        return container
    return replace(
        container,
        phase=ContainerPhase.EXITED,
        exit_code=START_ERROR_CODE,
        reason="StartError",
        message=message,
        finished_at=at,
    )


def exited(container: Container, exit: Exit) -> Container:
    """The process ended. A record that has ended keeps its first report. `exit.at` is a file's time, which the kernel
    takes from a clock that is some milliseconds late."""
    if container.phase is ContainerPhase.EXITED:
        return container
    reason = exit.reason or ("OOMKilled" if exit.oom else "Error" if exit.code else "Completed")
    return replace(
        container,
        phase=ContainerPhase.EXITED,
        exit_code=exit.code,
        finished_at=max(exit.at, container.started_at, container.created_at),
        reason=reason,
        message=exit.message,
    )


def resized(container: Container, resources: LinuxContainerResources) -> Container:
    """It has new limits: what is set replaces, zero means "not set" (contract 6.10); a page size or a file of the
    cgroup that is not named keeps its value. The OOM score belongs to processes: an update does not reach it."""
    old = container.resources
    values = {name: getattr(resources, name) or getattr(old, name) for name in old.__struct_fields__}
    values["oom_score_adj"] = old.oom_score_adj
    values["unified"] = {**old.unified, **resources.unified}
    pages = {limit.page_size: limit for limit in (*old.hugepage_limits, *resources.hugepage_limits)}
    values["hugepage_limits"] = list(pages.values())
    merged = LinuxContainerResources(**values)
    return container if old == merged else replace(container, resources=merged)


def lost(at: int, message: str) -> Exit:
    """The end that nobody saw."""
    return Exit(code=LOST_CODE, at=at, reason=UNKNOWN, message=message)
