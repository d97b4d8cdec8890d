"""Whether a handler works here, found out by running something."""

from __future__ import annotations

import os

from ropewalk.errors import RopewalkError
from ropewalk.linux import spawn
from ropewalk.runtimes import handler
from ropewalk.runtimes.drivers import init, oci

SECONDS = 10.0
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")


async def run_oci(driver: oci.Driver, *, packages: str) -> handler.Probe:
    """Ask runtime and monitor for their versions, then start a container that holds nothing but an init, see that it
    lives, and delete it. `packages`: what to install if a program is absent."""
    versions = []
    for program in (driver.command.path, driver.monitor.path):
        try:
            versions.append(await read_version(program))
        except (OSError, RopewalkError) as error:
            return handler.Probe(works=False, evidence=str(error), advice=f"apt-get install {packages}")
    problem = driver.cgroups.problem()
    if problem:
        return handler.Probe(works=False, version=versions[0], evidence=problem, advice=problem.rpartition("; ")[2])
    id = f"probe-{os.urandom(8).hex()}"
    cgroup = f"/ropewalk-{id}"
    driver.probing.add(id)
    try:
        task = await driver.create_init(id, probe_spec(cgroup), cgroup)
        seen = await driver.observe(id, task)
    except RopewalkError as error:
        return handler.Probe(works=False, version=versions[0], evidence=error.message, advice=error.hint)
    finally:
        await driver.delete(id, cgroup)
        driver.probing.discard(id)
    evidence = f"{', '.join(versions)}; ran {init.PROGRAM} in {len(NAMESPACES)} namespaces"
    if not seen.alive:
        return handler.Probe(works=False, version=versions[0], evidence=f"{evidence}, but it ended at once")
    return handler.Probe(works=True, version=versions[0], evidence=evidence)


async def read_version(program: str) -> str:
    """The first line of `program --version`."""
    completed = await spawn.run([program, "--version"], timeout=SECONDS)
    if completed.code:
        raise RopewalkError(f"{program} --version: exit code {completed.code}: {completed.stderr.decode()[:200]}")
    return completed.stdout.decode(errors="replace").split("\n", 1)[0]


def probe_spec(cgroup: str) -> dict[str, object]:
    """An OCI spec with no privileges, a read-only root, and an init that waits for ever."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 65534, "gid": 65534},
            "args": [init.PROGRAM, "-P"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k", "mode=755"]},
            # A runtime that does not know rro hands it to the kernel: tmpfs refuses it, a bind mount would not.
            {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["rro", "size=4k"]},
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": kind} for kind in NAMESPACES]},
    }
