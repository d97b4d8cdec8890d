"""Root file systems whose author put links where a runtime makes, opens or mounts (peers T2): on every handler, the
start fails cleanly or stays inside. A canary is what such a link leads to on the node.

The links are absolute (followed without care they lead to the node's path), climb, or lead through /proc. None leads to
the node's own directories: what a runtime does wrong here, it does as root.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ropewalk.errors import RopewalkError
from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.handler import ContainerPlan
from ropewalk.runtimes.handlers import crun, runc
from ropewalk.runtimes.oci import build, facts
from ropewalk.spec import container
from tests.fakes.boxes import Box, Place
from tests.unit.runtimes.oci import samples

HANDLERS = ("crun", "runc")
DIRECTORIES = (
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "proc",
    "sys",
    "sys/fs/cgroup",
    "etc",
    "work",
    "volume",
    "run",
)
FILES = (
    "dev/null",
    "dev/console",
    "dev/ptmx",
    "etc/passwd",
    "etc/group",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
    "volume-file",
    "proc/self",
)
WAYS = ("absolute", "climbing", "magic")
PAIRS = (("dev", "proc"), ("proc", "sys"), ("etc", "dev"), ("work", "volume"), ("etc/hosts", "dev/null"))


class Canary:
    """A directory of the node's with a file in it, outside of the root file system."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "file"
        directory.mkdir()
        self.file.write_text("canary\n")
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """All that a writer, a maker, or somebody who changes owner or mode would change."""
        found = {}
        for path in (self.directory, *sorted(self.directory.rglob("*"))):
            seen = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(seen.st_mode) else b""
            found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_mtime_ns, content)
        return found

    def link(self, place: Path, path: str, way: str, *, file: bool) -> None:
        """Put a link to the canary at `path` of the root file system."""
        at = place / path
        at.parent.mkdir(parents=True, exist_ok=True)
        target = str(self.file if file else self.directory)
        if way == "climbing":
            target = "../" * 30 + target.lstrip("/")
        elif way == "magic":
            target = f"/proc/self/root{target}"
        if at.is_dir() and not at.is_symlink():
            at.rmdir()
        at.unlink(missing_ok=True)
        os.symlink(target, at)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.close()


@pytest.fixture(params=HANDLERS)
def handler(request: pytest.FixtureRequest, place: Place) -> oci.Driver:
    if request.param == "crun":
        return crun.Handler(crun.Config(), place.node)
    return runc.Handler(runc.Config(), place.node)


def hostile_plan(place: Place, tmp_path: Path) -> ContainerPlan:
    """What Ropewalk asks of a runtime for an ordinary container with a working directory and two volumes."""
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "file").touch()
    plan = place.plan("true", log=False)
    mounts = [container.Mount("/volume", str(source)), container.Mount("/volume-file", str(source / "file"))]
    files = {}
    for name in ("hostname", "hosts", "resolv.conf"):
        (tmp_path / name).write_text("of the pod\n")
        files[f"/etc/{name}"] = str(tmp_path / name)
    (tmp_path / "shm").mkdir(exist_ok=True)
    files["/dev/shm"] = str(tmp_path / "shm")
    spec = samples.container_spec(
        samples.security(masked_paths=samples.MASKED, readonly_paths=samples.READONLY),
        command=["/bin/true"],
        working_dir="/work",
        mounts=mounts,
    )
    inputs = samples.inputs(
        container=spec,
        mounts=[facts.ResolvedMount(one, one.host_path) for one in mounts],
        files=files,
        cgroup_path=plan.cgroup,
        node=facts.NodeFacts(cgroup_version=place.cgroups.version, can_lower_oom=False, oom_score_adj=own_score()),
    )
    document = build.build(inputs).spec
    own = [{"type": kind} for kind in ("network", "ipc", "uts", "pid", "mount")]
    return replace(plan, spec={**document, "linux": {**document["linux"], "namespaces": own}})


def own_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


async def live(handler: oci.Driver, plan: ContainerPlan) -> str:
    """Create, start, wait, delete: "" if that worked, else what the runtime said. Nothing stays either way."""
    try:
        async with asyncio.timeout(20):
            box = Box(handler, plan, await handler.create(plan))
            await box.start()
            await box.wait()
            return ""
    except RopewalkError as error:
        return error.message
    finally:
        await handler.delete(plan.id, plan.cgroup)


async def test_the_plan_works_without_links(handler: oci.Driver, place: Place, tmp_path: Path) -> None:
    assert not await live(handler, hostile_plan(place, tmp_path))
    assert place.found() == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", [*DIRECTORIES, *FILES])
async def test_one_link(handler: oci.Driver, place: Place, tmp_path: Path, path: str, way: str) -> None:
    canary = Canary(tmp_path / "canary")
    canary.link(Path(place.image), path, way, file=path in FILES)
    said = await live(handler, hostile_plan(place, tmp_path))
    assert canary.state() == canary.before, said
    assert place.found() == []


@pytest.mark.parametrize("paths", PAIRS)
async def test_two_links(handler: oci.Driver, place: Place, tmp_path: Path, paths: tuple[str, str]) -> None:
    canary = Canary(tmp_path / "canary")
    for path in paths:
        canary.link(Path(place.image), path, "absolute", file=path in FILES)
    said = await live(handler, hostile_plan(place, tmp_path))
    assert canary.state() == canary.before, said
    assert place.found() == []
