"""Which platform of a runsc runs here, and whether its network does: found out by running a Sentry on each.

A platform is how a Sentry catches system calls: `systrap` by a seccomp filter whose signals it handles (the default of
builds since mid-2023), `ptrace` (theirs of before), `kvm` by virtualisation. That there is a device /dev/kvm says
nothing, so kvm is tried only where the configuration names it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from msgspec import Struct, structs

from ropewalk.errors import RopewalkError
from ropewalk.linux import spawn
from ropewalk.runtimes import probes, trial
from ropewalk.runtimes.drivers import init
from ropewalk.runtimes.drivers.runsc import checkpoints
from ropewalk.runtimes.drivers.runsc import driver as runsc
from ropewalk.runtimes.handler import Level, Probe

BY_DEFAULT = ("systrap", "ptrace")
SECONDS = 8.0  # for a trial: one that hangs does not work
ROOT_NETWORK = "root network namespace"  # runsc's complaint, see Facts.private_sysctls
PACKAGES = "runsc catatonit"


async def probe(driver: runsc.Driver, wanted: str) -> Probe:
    """`wanted`: the platform that the configuration names, "" for the first that works."""
    try:
        version = await probes.read_version(driver.command.path)
        build = await read_build(driver.command.path)
        driver.monitor.check(await probes.read_version(driver.monitor.path))
    except OSError as error:
        return Probe(Level.ABSENT, evidence=str(error), advice=f"apt-get install {PACKAGES}")
    except RopewalkError as error:
        return Probe(Level.PRESENT, evidence=error.message, advice=error.hint)
    problem = driver.cgroups.problem()
    if problem:
        return Probe(Level.PRESENT, version, evidence=problem, advice=problem.rpartition("; ")[2])
    known = runsc.Facts(port_forward="port-forward" in build.verbs, checkpoint=can_checkpoint(build, driver.flags))
    seen: list[str] = []
    for platform in [wanted] if wanted else [one for one in BY_DEFAULT if one in build.platforms]:
        try:
            facts, evidence = await _run(driver, structs.replace(known, platform=platform))
        except (RopewalkError, OSError, TimeoutError) as error:
            seen.append(f"{platform}: {str(error) or f'did not end within {SECONDS:g} s'}")
            continue
        evidence = "; ".join([f"{version}: {evidence}", *(f"not {why}" for why in seen)])
        return Probe(Level.WORKS, version, evidence=evidence, facts=runsc.write_facts(facts))
    advice = "a newer runsc may have a platform that runs on this kernel"
    return Probe(Level.PRESENT, version, evidence="; ".join(seen) or "it has no platform of ours", advice=advice)


class Build(Struct, frozen=True):
    """What a program says it has."""

    verbs: frozenset[str]
    platforms: frozenset[str]
    flags: frozenset[str]


async def read_build(program: str) -> Build:
    """By `runsc help` and `runsc flags`."""
    helped = await spawn.run([program, "help"], timeout=probes.SECONDS)
    flags = await spawn.run([program, "flags"], timeout=probes.SECONDS)
    return parse_build(helped.stdout.decode(errors="replace"), (flags.stdout + flags.stderr).decode(errors="replace"))


def parse_build(helped: str, flags: str) -> Build:
    """Verbs are indented by a tab in `helped`; the flag's text lists platforms: "…: systrap (default), ptrace, kvm."""
    verbs = re.findall(r"^\t([a-z][a-z-]+) ", helped, re.MULTILINE)
    listed = re.search(r"which platform to use: ([^.\n]*)", flags)
    names = re.findall(r"[a-z]+", listed.group(1).replace("(default)", "")) if listed else []
    return Build(frozenset(verbs), frozenset(names), frozenset(re.findall(r"^  -([a-z0-9-]+)", flags, re.MULTILINE)))


def can_checkpoint(build: Build, configured: Sequence[str]) -> bool:
    """`configured`: the flags that it is run with. See checkpoints.py."""
    known = build.verbs >= checkpoints.VERBS and checkpoints.FLAG.lstrip("-") in build.flags
    return known and not any(flag.startswith(checkpoints.OVERLAY) for flag in configured)


async def _run(driver: runsc.Driver, facts: runsc.Facts) -> tuple[runsc.Facts, str]:
    """A Sentry with a network namespace of its own, and a command in it. The driver has the facts under test."""
    before = driver.facts
    driver.settled.clear()
    try:
        driver.learn(facts)
        try:
            return facts, await _try(driver)
        except RopewalkError as error:
            if ROOT_NETWORK not in error.message:
                raise
        facts = structs.replace(facts, private_sysctls=True)
        driver.learn(facts)
        return facts, await _try(driver)
    finally:
        driver.learn(before)
        driver.settled.set()


async def _try(driver: runsc.Driver) -> str:
    id = trial.new_id(driver)
    async with asyncio.timeout(SECONDS), trial.running(driver, trial.build_spec(), id):
        await driver.command.ask(id, "exec", id, init.PROGRAM, "-V", timeout=SECONDS)
    able = "yes" if driver.facts.checkpoint else "no"
    hidden = ", /proc/sys/net hidden from runsc" if driver.facts.private_sysctls else ""
    return f"ran {init.PROGRAM} on {driver.facts.platform}, with a network of its own{hidden}; checkpoints: {able}"
