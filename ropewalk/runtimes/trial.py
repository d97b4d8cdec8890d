"""A container that holds nothing but an init, for a moment: what probes run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Protocol

from ropewalk.runtimes import handler
from ropewalk.runtimes.drivers import init
from ropewalk.spec.pod import PodSpec

NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")


class Subject(Protocol):
    """What a driver offers to its probe."""

    probing: set[str]  # ids of probes under way, which no row owns

    @property
    def node(self) -> handler.Node: ...

    @property
    def probe_prefix(self) -> str: ...

    def probe_cgroup(self, id: str) -> str: ...

    async def run_init(self, plan: handler.PodPlan) -> handler.Task: ...

    async def delete(self, id: str, cgroup: str) -> None: ...


@contextlib.asynccontextmanager
async def running(driver: Subject, spec: dict[str, Any], id: str = "") -> AsyncIterator[handler.Task]:
    """A container of the init alone, for as long as this lasts. Its control group is put into the spec. `id`: one of
    new_id."""
    id = id or new_id(driver)
    cgroup = driver.probe_cgroup(id)
    driver.probing.add(id)
    try:
        linux = {**spec["linux"], "cgroupsPath": cgroup}
        plan = handler.PodPlan(id=id, pod=PodSpec(), spec={**spec, "linux": linux}, cgroup=cgroup, parent=cgroup)
        yield await driver.run_init(plan)
    finally:
        removing = asyncio.ensure_future(driver.delete(id, cgroup))
        try:
            await asyncio.shield(removing)
        except asyncio.CancelledError:  # the daemon ends: nobody else would remove it
            await removing
            raise
        finally:
            driver.probing.discard(id)


def new_id(driver: Subject) -> str:
    return f"{driver.probe_prefix}{os.urandom(8).hex()}"


def build_spec(cgroup: str = "") -> dict[str, Any]:
    """An OCI spec with no privileges, a read-only root, and an init that waits for ever."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 65534, "gid": 65534},
            "args": [init.PROGRAM, "-P"],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "resources": {},  # Kata's Go runtime dies of a spec without
        },
    }
