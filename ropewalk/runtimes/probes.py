"""Whether a handler works here, found out by running something."""

from __future__ import annotations

from msgspec import structs

from ropewalk.errors import RopewalkError
from ropewalk.linux import process, spawn
from ropewalk.runtimes import handler, measures, trial
from ropewalk.runtimes.drivers import init, oci
from ropewalk.runtimes.drivers.shim import advice
from ropewalk.runtimes.drivers.shim import driver as shims
from ropewalk.runtimes.handler import Level
from ropewalk.runtimes.monitors import own

SECONDS = 10.0


async def run_oci(driver: oci.Driver, *, packages: str) -> handler.Probe:
    """Whether it works, and then what it can do besides: driver.capabilities are those of this node afterwards."""
    seen = await _try(driver, packages=packages)
    if seen.works:
        driver.capabilities, more = await measures.measure(driver, driver.capabilities)
        seen = structs.replace(seen, evidence=f"{seen.evidence}; {more}")
    return seen


async def _try(driver: oci.Driver, *, packages: str) -> handler.Probe:
    """Ask runtime and monitor for their versions, then start a container that holds nothing but an init, see that it
    lives, and delete it. `packages`: what to install if a program is absent."""
    try:
        versions = [await read_version(program) for program in (driver.command.path, driver.monitor.path)]
        driver.monitor.check(versions[1])
    except OSError as error:
        evidence = f"{error.filename}: {error.strerror}"
        return handler.Probe(Level.ABSENT, evidence=evidence, advice=f"apt-get install {packages}")
    except RopewalkError as error:
        return handler.Probe(Level.PRESENT, evidence=error.message, advice=error.hint)
    problem = driver.cgroups.problem()
    if problem:
        return handler.Probe(Level.PRESENT, version=versions[0], evidence=problem, advice=problem.rpartition("; ")[2])
    try:
        async with trial.running(driver, trial.build_spec()) as task:
            alive = process.is_alive(task.pid, task.pid_start)
    except RopewalkError as error:
        return handler.Probe(Level.PRESENT, version=versions[0], evidence=error.message, advice=error.hint)
    evidence = f"{', '.join(versions)}; ran {init.PROGRAM} in {len(trial.NAMESPACES)} namespaces"
    if not alive:
        return handler.Probe(Level.PRESENT, version=versions[0], evidence=f"{evidence}, but it ended at once")
    return handler.Probe(Level.WORKS, version=versions[0], evidence=evidence)


async def run_shim(driver: shims.Driver) -> handler.Probe:
    """Start a shim, have it run a pod's own container or sandbox, and delete both."""
    seen = await _try_shim(driver)
    if seen.works and driver.direct:
        driver.capabilities, more = await measures.measure(driver, driver.capabilities)
        seen = structs.replace(seen, evidence=f"{seen.evidence}; {more}")
    return seen


async def _try_shim(driver: shims.Driver) -> handler.Probe:
    try:
        version = await driver.binary.version()
    except (OSError, RopewalkError) as error:
        hint = getattr(error, "hint", "")
        return handler.Probe(Level.ABSENT, evidence=getattr(error, "message", str(error)), advice=hint)
    try:
        own.check(driver.settings.logger, await read_version(driver.settings.logger))
    except OSError as error:
        return handler.Probe(Level.ABSENT, version, f"{error.filename}: {error.strerror}", own.REINSTALL)
    except RopewalkError as error:
        return handler.Probe(Level.PRESENT, version, error.message, error.hint)
    problem = driver.cgroups.problem() if driver.direct else ""
    if problem:
        return handler.Probe(Level.PRESENT, version, problem, problem.rpartition("; ")[2])
    try:
        async with trial.running(driver, trial.build_spec()) as task:
            alive = process.is_alive(task.pid, task.pid_start)
    except RopewalkError as error:
        evidence = "; ".join([error.message, *getattr(error, "__notes__", ())])
        return handler.Probe(Level.PRESENT, version, evidence, error.hint or advice.advise(evidence))
    known = driver.binary.known()
    dialect = f", start protocol {known.dialect.value}" if known is not None else ""
    if not alive:
        return handler.Probe(Level.PRESENT, version, "what it ran for a pod ended at once")
    return handler.Probe(Level.WORKS, version, f"{driver.binary.path}{dialect}; ran {init.PROGRAM} in a pod of its own")


async def read_version(program: str) -> str:
    """The first line of `program --version`."""
    return (await read_text(program)).split("\n", 1)[0]


async def read_text(program: str) -> str:
    """All that `program --version` says."""
    completed = await spawn.run([program, "--version"], timeout=SECONDS)
    if completed.code:
        raise RopewalkError(f"{program} --version: exit code {completed.code}: {completed.stderr.decode()[:200]}")
    return completed.stdout.decode(errors="replace")
