"""ropewalk-monitor as the logger that real shims of containerd start themselves (binary://): no line is lost when who
started the container is killed. ropewalk has its shims write to fifos (docs/decisions/0011); other clients need not."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from ropewalk.linux import process
from ropewalk.runtimes.handlers import shim
from ropewalk.runtimes.monitors import own
from tests.contract import logged
from tests.fakes.boxes import Box, Place
from tools import shims

SHIMS = {"debian": shims.find(), "newer": shims.newer()}
COUNT = "i=0; while ! test -e /stop; do i=$((i+1)); echo $i; echo $i >&2; sleep 0.01; done; echo last; echo last >&2"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=SHIMS)
def program(request: pytest.FixtureRequest) -> str:
    found = SHIMS[request.param]
    if found is None:
        pytest.skip("./dev setup unpacks Debian's shim; a newer one is looked for in PATH")
    return str(found)


def numbers(log: Path) -> dict[str, list[str]]:
    """What each stream has said so far, in whole lines."""
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for line in log.read_text().splitlines() if log.exists() else []:
        _, stream, tag, text = line.split(" ", 3)
        assert tag == "F"
        said[stream].append(text)
    return said


async def said(log: Path, count: int, last: str = "") -> None:
    """Until both streams have `count` lines, and `last` is the last of them."""
    async with asyncio.timeout(60):
        while not all(len(lines) >= count and lines[-1].endswith(last) for lines in numbers(log).values()):
            await asyncio.sleep(0.02)


async def test_no_line_is_lost_when_the_daemon_is_killed(place: Place, program: str) -> None:
    plan = place.plan("sh", "-c", COUNT)
    log = Path(plan.log_path)
    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", logged.__name__, place.state, program, own.SHIPPED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write(msgspec.json.encode(plan))
    daemon.stdin.close()
    try:
        pid = int(await daemon.stdout.readline())
        await said(log, 3)
    finally:
        daemon.kill()
        await daemon.wait()
    before = len(numbers(log)["stdout"])
    await said(log, before + 10)
    Path(f"/proc/{pid}/root/stop").touch()
    await said(log, before + 10, "last")
    for lines in numbers(log).values():
        assert lines == [*map(str, range(1, len(lines))), "last"]
    handler = shim.Handler(shim.Config(path=program), place.node)  # the next daemon's
    task = handler.bundle(plan.id).read_task()
    assert task is not None
    box = Box(handler, plan, task)
    assert (await box.wait()).code == 0
    await box.delete()
    await handler.close()
    async with asyncio.timeout(20):  # Delete closes the pipes, and the logger goes
        while process.find(str(log).encode()):
            await asyncio.sleep(0.02)
    assert place.found() == []
