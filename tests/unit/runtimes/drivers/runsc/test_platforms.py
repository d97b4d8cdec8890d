"""What a build says of itself, and what is kept of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers.runsc import driver, platforms
from ropewalk.runtimes.handler import Node, PodPlan, Task
from ropewalk.runtimes.handlers import runsc
from ropewalk.spec.pod import PodSpec

HELP = """Usage: runsc <flags> <subcommand> <subcommand args>

Subcommands:
\tcheckpoint       checkpoint current state of container (experimental)
\tport-forward     port forward to a secure container
\twait             wait on a process inside a container
"""
OLD = """  -platform string
    \tspecifies which platform to use: ptrace (default), kvm. (default "ptrace")
"""
NEW = """  -platform string
    \tspecifies which platform to use: systrap (default), ptrace, kvm. (default "systrap")
"""


def test_verbs_and_platforms() -> None:
    assert platforms.parse_build(HELP, NEW).verbs == {"checkpoint", "port-forward", "wait"}
    assert platforms.parse_build(HELP, NEW).platforms == {"systrap", "ptrace", "kvm"}
    assert platforms.parse_build(HELP, OLD).platforms == {"ptrace", "kvm"}
    assert platforms.parse_build("", "").platforms == frozenset()


def test_only_a_build_that_goes_on_is_said_to_checkpoint() -> None:
    verbs = HELP.replace("\twait ", "\trestore          restore a saved state\n\twait ")
    flags = f"{NEW}  -net-disconnect-ok\n    \topen connections may be disconnected upon save.\n"
    able = platforms.parse_build(verbs, flags)
    assert "net-disconnect-ok" in able.flags
    assert platforms.can_checkpoint(able, ["--net-raw"])
    assert not platforms.can_checkpoint(able, ["--overlay2=none"])  # what the container wrote is then the node's
    assert not platforms.can_checkpoint(platforms.parse_build(verbs, NEW), [])  # 2022
    assert not platforms.can_checkpoint(platforms.parse_build(HELP, flags), [])


def test_facts_survive_a_probe_that_is_kept() -> None:
    facts = driver.Facts(platform="ptrace", private_sysctls=True)
    assert driver.read_facts(driver.write_facts(facts)) == facts
    assert driver.read_facts({}) == driver.Facts()


def test_only_a_sandbox_network_needs_the_sysctls_hidden() -> None:
    made = runsc.Handler.__new__(runsc.Handler)
    made.facts = driver.Facts(private_sysctls=True)
    assert made._start_mounts("sandbox") is driver.hide_sysctls
    assert made._start_mounts("host") is None
    made.facts = driver.Facts()
    assert made._start_mounts("sandbox") is None


async def test_no_pod_is_made_by_what_a_probe_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `ropewalk runtimes --probe`: systrap does not work here, and pods have ptrace."""
    made = runsc.Handler(runsc.Config(), Node(str(tmp_path), cgroup.detect()))
    made.learn(driver.Facts(platform="ptrace"))
    trying, decided = asyncio.Event(), asyncio.Event()

    async def attempt(_: runsc.Handler) -> str:
        trying.set()
        await decided.wait()
        await asyncio.sleep(0)
        raise RopewalkError("systrap does not run")

    async def boot(_: PodPlan, **__: Any) -> Task:
        return Task(len(made.facts.platform), 0)

    monkeypatch.setattr(platforms, "_try", attempt)
    monkeypatch.setattr(made, "boot", boot)

    async def probe() -> None:
        for platform in ("systrap", "kvm"):
            with pytest.raises(RopewalkError):
                await platforms._run(made, driver.Facts(platform=platform))

    probing = asyncio.ensure_future(probe())
    await trying.wait()
    making = asyncio.ensure_future(made.create_pod(PodPlan("p", PodSpec(), {}, cgroup="/p", parent="/")))
    await asyncio.sleep(0)
    decided.set()
    assert (await making).pid == len("ptrace")
    await probing
