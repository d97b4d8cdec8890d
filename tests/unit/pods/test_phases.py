"""Facts change records; the second report of a fact changes nothing; order does not matter."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from msgspec import structs

from ropewalk.pods import phases
from ropewalk.pods.records import Container, ContainerPhase, Pod, PodPhase, User
from ropewalk.runtimes.handler import Exit, Task
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import HugepageLimit, LinuxContainerResources, PodSpec


def container(phase: ContainerPhase = ContainerPhase.MAKING) -> Container:
    return Container(
        id="c", pod_id="p", spec=ContainerSpec(), phase=phase, handler="crun", boot_id="b", cgroup="/c", image_id="i"
    )


def pod(phase: PodPhase = PodPhase.MAKING) -> Pod:
    return Pod(id="p", spec=PodSpec(), phase=phase, handler="crun", created_at=1, boot_id="b", cgroup="/p")


def test_a_pod_becomes_ready_once_and_never_again() -> None:
    ready = phases.ready(pod(), 7)
    assert (ready.phase, ready.created_at) == (PodPhase.READY, 7)
    assert phases.ready(ready, 9) is ready
    gone = phases.torn_down(phases.notready(ready))
    assert gone.torn_down
    assert phases.ready(gone, 9) is gone
    assert phases.torn_down(gone) is gone


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (Exit(code=0, at=5), "Completed"),
        (Exit(code=3, at=5), "Error"),
        (Exit(code=137, at=5, oom=True), "OOMKilled"),
        (Exit(code=0, at=5, oom=True), "OOMKilled"),
        (phases.lost(5, "m"), "Unknown"),
    ],
)
def test_the_reason_of_an_end(exit: Exit, reason: str) -> None:
    ended = phases.exited(container(ContainerPhase.RUNNING), exit)
    assert (ended.phase, ended.exit_code, ended.reason, ended.finished_at) == (
        ContainerPhase.EXITED,
        exit.code,
        reason,
        5,
    )


def test_the_first_report_of_an_end_stays() -> None:
    ended = phases.exited(container(ContainerPhase.RUNNING), Exit(code=1, at=5))
    assert phases.exited(ended, phases.lost(9, "later")) is ended


def test_started_and_exited_give_the_same_record_in_either_order() -> None:
    facts: list[Callable[[Container], Container]] = [
        lambda container: phases.started(container, 3),
        lambda container: phases.exited(container, Exit(code=0, at=5)),
    ]
    results = []
    for order in itertools.permutations(facts):
        record = container(ContainerPhase.CREATED)
        for fact in order:
            record = fact(record)
        results.append(record)
    assert results[0] == results[1]
    assert results[0].phase is ContainerPhase.EXITED
    assert results[0].started_at == 3


def test_a_failed_start_is_128_start_error() -> None:
    failed = phases.start_failed(container(ContainerPhase.CREATED), "no such file", 4)
    assert (failed.exit_code, failed.reason, failed.message, failed.finished_at) == (
        128,
        "StartError",
        "no such file",
        4,
    )
    assert phases.start_failed(failed, "again", 9) is failed


def test_created_keeps_the_task_and_tells_the_user() -> None:
    made = phases.created(phases.tasked(container(), Task(pid=1, pid_start=2)), User(uid=5), 8)
    assert (made.phase, made.created_at, made.user.uid, made.task) == (
        ContainerPhase.CREATED,
        8,
        5,
        Task(pid=1, pid_start=2),
    )


@pytest.mark.parametrize("late", [True, False])
def test_nothing_ends_before_it_starts(*, late: bool) -> None:
    """The time of an exit file may be some milliseconds before the start's."""
    exit = Exit(code=0, at=18)
    waiting = container(ContainerPhase.CREATED)
    if late:
        ended = phases.started(phases.exited(waiting, exit), 20)
    else:
        ended = phases.exited(phases.started(waiting, 20), exit)
    assert ended.started_at == ended.finished_at


def test_new_limits_replace_what_they_name_and_nothing_else() -> None:
    """The status tells what is in force: kubelet compares it with what it asked for."""
    before = LinuxContainerResources(
        cpu_shares=100,
        memory_limit_in_bytes=5,
        oom_score_adj=900,
        hugepage_limits=[HugepageLimit("2MB", 1), HugepageLimit("1GB", 1)],
        unified={"memory.high": "4", "memory.min": "1"},
    )
    asked = LinuxContainerResources(
        cpu_shares=200,
        oom_score_adj=3,
        hugepage_limits=[HugepageLimit("1GB", 0)],
        unified={"memory.high": "6"},
    )
    record = structs.replace(container(ContainerPhase.RUNNING), resources=before)
    now = phases.resized(record, asked)
    assert now.resources == LinuxContainerResources(
        cpu_shares=200,
        memory_limit_in_bytes=5,
        oom_score_adj=900,  # of the process since it started
        hugepage_limits=[HugepageLimit("2MB", 1), HugepageLimit("1GB", 0)],
        unified={"memory.high": "6", "memory.min": "1"},
    )
    assert phases.resized(now, asked) is now
