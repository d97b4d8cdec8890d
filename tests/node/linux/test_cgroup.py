"""Control groups on the real kernel: this node's layout, and the v2 mount beside v1 (which has no controllers)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import cgroup, features, mount, process, spawn
from ropewalk.linux.cgroup_v2 import CgroupsV2
from ropewalk.spec.pod import HugepageLimit, LinuxContainerResources
from tools import trace

BOMB = "spin() { spin & spin & wait; }; spin"  # cut short by pids.max or by kill


def unified() -> str:
    """The mount point of cgroup v2, "" if there is none."""
    return next((found.target for found in mount.mounts() if found.type == "cgroup2"), "")


@pytest.fixture(params=["node", "v2", "v2-without-kill"])
async def cgroups(request: pytest.FixtureRequest) -> AsyncIterator[cgroup.Cgroups]:
    if request.param == "node":
        yield cgroup.detect()
        return
    if not unified():
        pytest.skip("no cgroup v2 mount")
    off = features.force_off("cgroup_kill") if request.param == "v2-without-kill" else contextlib.nullcontext()
    with off:
        yield CgroupsV2(unified())


@pytest.fixture
async def path(cgroups: cgroup.Cgroups) -> AsyncIterator[str]:
    """A cgroup of this test's own; nothing may stay of it."""
    path = f"/{trace.own_names()}cgroup"
    cgroups.make(path)
    yield path
    await cgroups.kill(path)
    await cgroups.remove(path)
    assert not cgroups.exists(path)


@pytest.fixture
def v1() -> cgroup.Cgroups:
    found = cgroup.detect()
    if found.version != 1:
        pytest.skip("this node has cgroup v2 only")
    return found


@pytest.fixture
async def v1_path(v1: cgroup.Cgroups) -> AsyncIterator[str]:
    path = f"/{trace.own_names()}cgroup-v1"
    v1.make(path)
    yield path
    await v1.kill(path)
    await v1.remove(path)
    assert not v1.exists(path)


async def test_make_is_idempotent_and_nested_and_takes_processes(cgroups: cgroup.Cgroups, path: str) -> None:
    cgroups.make(f"{path}/pod/container")
    cgroups.make(f"{path}/pod/container")
    assert cgroups.list(path) == [f"{path}/pod", f"{path}/pod/container"]
    child = spawn.spawn(["sleep", "60"])
    cgroups.add(f"{path}/pod/container", child.pid)
    assert cgroups.processes(path) == [child.pid]
    assert f"{path}/pod/container" in Path(f"/proc/{child.pid}/cgroup").read_text()
    await cgroups.kill(path)
    assert await child.wait() == -9
    assert cgroups.processes(path) == []
    await cgroups.kill(path)


async def test_remove_goes_bottom_up_and_waits_for_what_is_ending(cgroups: cgroup.Cgroups, path: str) -> None:
    cgroups.make(f"{path}/pod/a/b")
    child = spawn.spawn(["sleep", "60"])
    cgroups.add(f"{path}/pod/a/b", child.pid)
    with pytest.raises(OSError, match="busy"):
        await cgroups.remove(f"{path}/pod", seconds=0.01)
    child.kill()
    await cgroups.remove(f"{path}/pod")
    await cgroups.remove(f"{path}/pod")
    assert cgroups.list(path) == []
    await child.wait()


async def test_a_fork_bomb_ends(cgroups: cgroup.Cgroups, path: str) -> None:
    bounded = cgroup.detect()
    if "pids" not in bounded.controllers():
        pytest.skip("no pids controller to keep the bomb small")
    gate_read, gate_write = os.pipe()
    child = spawn.spawn(["sh", "-c", f"read go; {BOMB}"], stdin=gate_read)
    os.close(gate_read)
    hybrid = bounded.version == 1  # else there is one hierarchy, and a process is in one cgroup of it
    limits = f"{path}-limits" if hybrid else path
    bounded.make(limits)
    pids = next(each for each in bounded.directories(limits) if os.path.exists(f"{each}/pids.max"))
    cgroup.write(f"{pids}/pids.max", "64")
    cgroups.add(path, child.pid)
    cgroup.write(f"{pids}/cgroup.procs", str(child.pid))  # after it, or the bomb has no bound
    os.write(gate_write, b"go\n")
    os.close(gate_write)
    while len(cgroups.processes(path)) < 20:
        await asyncio.sleep(0.005)
    await cgroups.kill(path)
    assert cgroups.processes(path) == []
    await child.wait()
    if hybrid:
        await bounded.remove(limits)


async def test_statistics_move(cgroups: cgroup.Cgroups, path: str) -> None:
    gate_read, gate_write = os.pipe()
    script = "read go; text=$(head -c 3000000 /dev/zero | tr '\\0' x); while :; do :; done"
    child = spawn.spawn(["sh", "-c", script], stdin=gate_read)
    os.close(gate_read)
    cgroups.add(path, child.pid)
    os.write(gate_write, b"go\n")
    os.close(gate_write)
    wanted = 3_000_000 if "memory" in cgroups.controllers() else 0
    async with asyncio.timeout(30):
        while not (found := cgroups.stats(path)) or not found.cpu_usage_ns or (found.memory_rss or 0) < wanted:
            await asyncio.sleep(0.01)
    await cgroups.kill(path)
    await child.wait()
    if wanted:
        assert found.memory_usage
        assert found.memory_working_set is not None
        assert 0 < found.memory_working_set <= found.memory_usage
        assert found.pids
        assert cgroups.oom_kills(path) == 0
    assert cgroups.stats(f"{path}/gone") is None
    assert cgroups.oom_kills(f"{path}/gone") is None


async def test_a_paused_container_can_be_killed(v1: cgroup.Cgroups, v1_path: str) -> None:
    child = spawn.spawn(["sleep", "60"])
    v1.add(v1_path, child.pid)
    freezer = next(each for each in v1.directories(v1_path) if os.path.exists(f"{each}/freezer.state"))
    cgroup.write(f"{freezer}/freezer.state", "FROZEN")
    await v1.kill(v1_path, seconds=5)
    assert await child.wait() == -9
    assert cgroup.read(f"{freezer}/freezer.state") == b"THAWED\n"


async def test_cpusets_are_filled_so_that_processes_can_enter(v1: cgroup.Cgroups, v1_path: str) -> None:
    v1.make(f"{v1_path}/a/b")
    cpuset = next(each for each in v1.directories("/") if os.path.exists(f"{each}/cpuset.cpus"))
    for below in (v1_path, f"{v1_path}/a/b"):
        for file in ("cpuset.cpus", "cpuset.mems"):
            assert cgroup.read(f"{cpuset}{below}/{file}") == cgroup.read(f"{cpuset}/{file}")


async def test_updates_reach_the_kernel_in_both_directions(v1: cgroup.Cgroups, v1_path: str) -> None:
    memory = next(each for each in v1.directories(v1_path) if os.path.exists(f"{each}/memory.stat"))
    cpu = next(each for each in v1.directories(v1_path) if os.path.exists(f"{each}/cpu.shares"))
    for limit, swap in ((64 << 20, 0), (256 << 20, 512 << 20), (32 << 20, 64 << 20), (128 << 20, 0)):
        v1.update(v1_path, LinuxContainerResources(memory_limit_in_bytes=limit, memory_swap_limit_in_bytes=swap))
        assert cgroup.number(cgroup.read(f"{memory}/memory.limit_in_bytes")) == limit
        assert cgroup.number(cgroup.read(f"{memory}/memory.memsw.limit_in_bytes")) == (swap or limit)
        found = v1.stats(v1_path)
        assert found is not None
        assert (found.memory_limit, found.swap_limit) == (limit, (swap or limit) - limit)
    v1.update(v1_path, LinuxContainerResources(cpu_shares=100, cpu_period=50000, cpu_quota=20000, cpuset_cpus="0"))
    assert cgroup.number(cgroup.read(f"{cpu}/cpu.cfs_quota_us")) == 20000
    v1.update(v1_path, LinuxContainerResources(hugepage_limits=[HugepageLimit("2MB", 0)]))
    with pytest.raises(errors.Invalid):
        v1.update(v1_path, LinuxContainerResources(unified={"memory.high": "1"}))
    with pytest.raises(errors.RopewalkError, match=r"cpuset\.cpus cannot be set to 4095") as caught:
        v1.update(v1_path, LinuxContainerResources(cpuset_cpus="4095"))
    assert caught.value.kind is errors.Kind.INVALID


async def test_an_oom_kill_is_counted(v1: cgroup.Cgroups, v1_path: str) -> None:
    v1.update(v1_path, LinuxContainerResources(memory_limit_in_bytes=16 << 20))
    gate_read, gate_write = os.pipe()
    eater = spawn.spawn(["sh", "-c", "read go; exec tail /dev/zero"], stdin=gate_read)
    os.close(gate_read)
    v1.add(v1_path, eater.pid)
    os.write(gate_write, b"go\n")
    os.close(gate_write)
    assert await eater.wait() == -9
    assert v1.oom_kills(v1_path) == 1


async def test_a_process_can_be_in_some_hierarchies_only(v1: cgroup.Cgroups, v1_path: str) -> None:
    child = spawn.spawn(["sleep", "60"])
    v1.add(v1_path, child.pid, controllers=["memory", "pids"])
    lines = [line.split(":", 2) for line in Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()]
    inside = {name for _, name, where in lines if where == v1_path}
    assert {name for name in inside if name and not name.startswith("name=")} == {"memory", "pids"}
    assert v1.processes(v1_path) == [child.pid]
    await v1.kill(v1_path)
    await child.wait()
    assert not process.is_alive(child.pid, 0)
