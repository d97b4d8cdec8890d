"""crun's settings, and that nothing runs before it is asked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import cgroup, process
from ropewalk.runtimes import refusals
from ropewalk.runtimes.drivers import bundle
from ropewalk.runtimes.handler import Boundary, Node, Task
from ropewalk.runtimes.handlers import crun
from ropewalk.spec.pod import PodSpec


async def test_a_profile_that_lets_no_signal_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop signal is refused with what to do, and SIGKILL goes by the cgroup."""
    handler = crun.Handler(crun.Config(), Node(str(tmp_path), cgroup.detect()))
    killed: list[str] = []

    async def kill(path: str) -> None:
        killed.append(path)

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(handler.cgroups, "kill", kill)
    monkeypatch.setattr(process, "send_signal", denied)
    own = bundle.Bundle(str(tmp_path / "containers" / "c1"))
    own.make(bundle.Record(runtime="crun", cgroup="/pod/c1"))
    task = Task(pid=os.getpid(), pid_start=process.start_time(os.getpid()) or 0)
    with pytest.raises(RopewalkError, match="does not let signal 15 in") as caught:
        await handler.signal("c1", task, 15)
    assert caught.value.kind is Kind.DENIED
    assert "peer=unconfined" in caught.value.hint
    assert killed == []
    await handler.signal("c1", task, 9)
    await handler.kill("c1", task, "/pod/c1")
    assert killed == ["/pod/c1"] * 2


def test_what_is_learned_is_compiled_not_taken_from_cruns_cache(tmp_path: Path) -> None:
    handler = crun.Handler(crun.Config(), Node(str(tmp_path), cgroup.detect()))
    cached = Path(handler.root, ".cache", "seccomp", "0" * 64)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"another profile's")
    spec = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}
    assert handler.adapt(spec) == spec
    assert not cached.exists()
    assert handler.adapt(spec) == spec


def test_it_is_built_without_its_programs(tmp_path: Path) -> None:
    handler = crun.Handler(crun.Config(path="/absent", monitor="/absent"), Node(str(tmp_path), cgroup.detect()))
    assert handler.name == "crun"
    assert handler.capabilities.boundary is Boundary.NAMESPACES
    refusals.check(handler, PodSpec())  # it honours every field
    assert sorted(path.name for path in tmp_path.iterdir()) == ["consoles", "containers", "exits", "runtimes"]


@pytest.mark.parametrize(
    ("left", "code", "pod", "oom"),
    [
        ("oom", 137, 0, True),
        ("oom", 1, 0, True),  # one of its processes was killed, and it gave up
        ("spared", 137, 5, False),  # somebody killed it while another container of the pod met the OOM killer
        ("", 137, 5, True),  # the monitor does not know: the pod's count has grown
        ("", 137, 3, False),
        ("", 1, 5, False),
    ],
)
async def test_whom_the_oom_killer_met_when_the_scope_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, code: int, pod: int, *, oom: bool
) -> None:
    """systemd has removed the cgroup with its count; the pod had 3 before this container."""
    handler = crun.Handler(crun.Config(), Node(str(tmp_path), cgroup.detect()))
    scope = "/kubepods.slice/pod.slice/cri-containerd-c1.scope"
    monkeypatch.setattr(handler.cgroups, "oom_kills", {os.path.dirname(scope): pod}.get)
    own = bundle.Bundle(str(tmp_path / "containers" / "c1"))
    own.make(bundle.Record(runtime="crun", cgroup=scope, pod_ooms=3))
    if left:
        Path(own.path(left)).touch()
    handler.monitor.record("c1", code)
    seen = await handler.wait("c1", Task(pid=2**31 - 1, pid_start=0), scope)
    assert (seen.code, seen.oom) == (code, oom)


async def test_an_oom_kill_is_told_of_one_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first that SIGKILL ends, however often it is asked; who ends later was killed by somebody else."""
    handler = crun.Handler(crun.Config(), Node(str(tmp_path), cgroup.detect()))
    monkeypatch.setattr(handler.cgroups, "oom_kills", {"/pod.slice": 1}.get)
    for id, pod in (("met", "p"), ("killed", "p"), ("stranger", "q")):
        bundle.Bundle(str(tmp_path / "containers" / id)).make(bundle.Record(pod=pod, cgroup=f"/pod.slice/{id}.scope"))
        handler.monitor.record(id, 137)

    async def oom(id: str) -> bool:
        return (await handler.wait(id, Task(pid=2**31 - 1, pid_start=0), f"/pod.slice/{id}.scope")).oom

    assert [await oom("met"), await oom("killed"), await oom("met")] == [True, False, True]
    assert bundle.Bundle(str(tmp_path / "containers" / "stranger")).read_record().pod_ooms == 0
