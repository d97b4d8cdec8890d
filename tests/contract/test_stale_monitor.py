"""A ropewalk-monitor of another build: found by the probe, before a pod; and said where one was replaced since."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes.handler import Handler, Level
from ropewalk.runtimes.handlers import crun, runsc, shim
from ropewalk.runtimes.monitors import own
from tests.contract import handlers
from tests.fakes.boxes import Place, create

pytestmark = pytest.mark.timeout(60)

SCRIPT = """\
#!/bin/sh
test "$1" = --version || exec >&2
echo ropewalk-monitor 0.1.0
test "$1" = --version
"""


def make(name: str, place: Place, monitor: str) -> Handler:
    if name == "crun":
        return crun.Handler(crun.Config(monitor=monitor), place.node)
    if name == "runsc":
        return runsc.Handler(runsc.Config(monitor=monitor), place.node)
    if (program := handlers.SHIMS["shim"]) is None:
        pytest.skip("no shim")
    return shim.Handler(shim.Config(path=str(program), monitor=monitor), place.node)


@pytest.mark.parametrize("name", ["crun", "runsc", "shim"])
async def test_another_build(name: str, place: Place, tmp_path: Path) -> None:
    await (await handlers.ready(name, place)).close()
    monitor = tmp_path / own.NAME
    monitor.write_text(SCRIPT)
    monitor.chmod(0o755)
    handler = make(name, place, str(monitor))
    probe = await handler.probe()
    assert probe.level is Level.PRESENT
    assert f"{monitor} is 'ropewalk-monitor 0.1.0', and protocol {own.PROTOCOL} is needed" in probe.evidence
    assert "./dev setup" in probe.advice
    if name == "crun":  # its probe was kept by an earlier daemon, say
        plan = place.plan("true")
        with pytest.raises(RopewalkError, match=r"another build \(ropewalk-monitor 0\.1\.0\)") as caught:
            await create(handler, plan)
        assert caught.value.kind is Kind.UNSUPPORTED
        await handler.delete(plan.id, plan.cgroup)
    await handler.close()
