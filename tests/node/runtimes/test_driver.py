"""The OCI driver's own promises: what is missing is said, and what other programs see."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount, spawn
from ropewalk.runtimes.drivers import execution
from ropewalk.runtimes.handlers import crun
from ropewalk.storage.snapshotter import Mount
from tests.fakes.boxes import Place, run


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


@pytest.mark.parametrize("config", [crun.Config(path="/no/such/program"), crun.Config(monitor="/no/such/program")])
async def test_a_missing_program_is_said_and_breaks_nothing(place: Place, config: crun.Config) -> None:
    handler = crun.Handler(config, place.node)
    probe = await handler.probe()
    assert not probe.works
    assert "/no/such/program" in probe.evidence
    assert "apt-get install" in probe.advice
    plan = place.plan("true")
    with pytest.raises(RopewalkError) as caught:
        await handler.create(plan)
    assert "install" in caught.value.hint
    assert caught.value.kind is Kind.UNAVAILABLE
    await handler.delete(plan.id, plan.cgroup)
    assert place.found() == []


async def test_a_missing_catatonit_is_said(place: Place) -> None:
    handler = crun.Handler(crun.Config(init="no-such-init"), place.node)
    probe = await handler.probe()
    assert not probe.works
    assert "catatonit" in probe.advice


async def test_the_runtime_itself_agrees(place: Place) -> None:
    """`crun state` on our state directory."""
    handler = crun.Handler(crun.Config(), place.node)
    box = await run(handler, place.plan("sleep", "100"))
    seen = await spawn.run(["crun", f"--root={place.state}/runtimes/crun", "state", box.id], timeout=5)
    state = json.loads(seen.stdout)
    assert (state["status"], state["pid"]) == ("running", box.task.pid)
    await box.delete()
    seen = await spawn.run(["crun", f"--root={place.state}/runtimes/crun", "list", "-q"], timeout=5)
    assert seen.stdout == b""
    assert place.found() == []


async def test_a_root_file_system_may_be_a_bind_mount(place: Place) -> None:
    from msgspec.structs import replace

    handler = crun.Handler(crun.Config(), place.node)
    plan = replace(place.plan("true"), rootfs=[Mount(type="bind", source=place.image, options=["ro", "rbind"])])
    box = await run(handler, plan)
    assert (await box.wait()).code == 0
    await box.delete()
    assert place.found() == []
    assert os.path.exists(f"{place.image}/bin/busybox")


async def test_mounts_stay_in_our_namespace_where_the_parent_is_shared(place: Place) -> None:
    """As under systemd: what is mounted for a container reaches no other mount namespace."""
    mount.bind(place.state, place.state)
    mount.make_shared(place.state)
    handler = crun.Handler(crun.Config(), place.node)
    box = await run(handler, place.plan("sleep", "100"))
    own = [one for one in mount.mounts() if one.target.endswith(f"{box.id}/rootfs")]
    assert [one.propagation for one in own] == [""]
    await box.delete()
    assert [one for one in mount.mounts() if box.id in one.target] == []
    mount.umount_all(place.state)
    assert place.found() == []


async def test_a_busy_root_file_system_is_unmounted_all_the_same(place: Place) -> None:
    handler = crun.Handler(crun.Config(), place.node)
    box = await run(handler, place.plan("sleep", "100"))
    held = os.open(f"{place.state}/containers/{box.id}/rootfs/bin/busybox", os.O_RDONLY)
    await box.delete()
    os.close(held)
    assert place.found() == []


async def test_a_full_disk_is_said(place: Place) -> None:
    """The directory of bundles has no room; delete works there too."""
    handler = crun.Handler(crun.Config(), place.node)
    mount.tmpfs(handler.containers, size=4096)
    Path(handler.containers, "filler").write_bytes(b"x" * 4096)
    plan = place.plan("true")
    with pytest.raises(RopewalkError) as caught:
        await handler.create(plan)
    assert caught.value.kind is Kind.EXHAUSTED
    await handler.delete(plan.id, plan.cgroup)
    mount.umount_all(handler.containers)
    assert place.found() == []


async def test_a_ready_made_seccomp_filter_is_the_same_filter(place: Place) -> None:
    """The first container has it compiled, the second is given it: the same program, refusing the same, in exec too."""
    handler = crun.Handler(crun.Config(), place.node)
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    linux = {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}}
    programs, refusals = [], []
    for _ in range(2):
        box = await run(handler, place.plan("sleep", "100", linux=linux))
        programs.append(Path(handler.root, box.id, "seccomp.bpf").read_bytes())
        async with asyncio.timeout(30):
            while "Seccomp:\t2\n" not in Path(f"/proc/{box.task.pid}/status").read_text():
                await asyncio.sleep(0.01)  # `start` returns before the process has come to its exec
        refusals.append((await box.exec("busybox", "mkdir", "/tmp/x")).stderr)
        config = json.loads(Path(place.state, "containers", box.id, "config.json").read_text())
        assert ("run.oci.seccomp_bpf_data" in config.get("annotations", {})) is (len(programs) == 2)
        assert "run.oci.seccomp_bpf_data" not in handler.spec(box.id).get("annotations", {})
        await box.delete()
    assert programs[0] == programs[1]
    assert refusals[0] == refusals[1]
    assert b"Function not implemented" in refusals[0]


@pytest.mark.parametrize("tty", [False, True])
async def test_a_caller_that_leaves_while_its_command_begins(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, tty: bool
) -> None:
    handler = crun.Handler(crun.Config(), place.node)
    box = await run(handler, place.plan("sleep", "100"))

    def leave(*_: object) -> None:
        assert len(place.node.cgroups.processes(box.plan.cgroup)) == 2
        raise asyncio.CancelledError

    monkeypatch.setattr(execution, "adopt", leave)
    description = {"user": {"uid": 0, "gid": 0}, "args": ["sleep", "200"], "env": ["PATH=/bin"], "cwd": "/"}
    with pytest.raises(asyncio.CancelledError):
        await handler.exec_stream(box.id, box.task, description, tty=tty)
    assert place.node.cgroups.processes(box.plan.cgroup) == [box.task.pid]
    await box.delete()
    assert place.found() == []
