"""Pods that come and go on each handler leave nothing: on the machine, in the state directory, in the daemon.

`PODS=200 ./dev test tests/node/runtimes/test_churn.py` is the long run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections import Counter

import pytest

from ropewalk.client import cri
from tests.node.kill import kernel, killable
from tests.node.kill.test_random import needs, sockets
from tools import shims, workload

NODE_CLASS = killable.Node
YOUKI = shutil.which("youki")
SHIMS = {"shim": shims.find(), "newer": shims.newer()}
PROGRAMS = {"crun": shutil.which("crun"), "runc": shutil.which("runc"), "youki": YOUKI, "runsc": shutil.which("runsc")}
NODE_CONFIG = "ready = 0\n" + "".join(
    f'[runtimes.{name}]\ntype = "shim"\npath = "{path}"\n' for name, path in SHIMS.items() if path
)
if YOUKI:
    NODE_CONFIG += f'[runtimes.youki]\npath = "{YOUKI}"\n'

PODS = int(os.environ.get("PODS") or 8)
AT_ONCE = 4


def descriptors(pid: int) -> Counter[str]:
    """What a process holds, by kind: "socket:", "anon_inode:[pidfd]", a path. SQLite closes its file late where another
    connection has it locked, so that does not count."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r":\[[0-9]+\]$", ":", os.readlink(f"/proc/{pid}/fd/{name}"))] += 1
    return Counter({what: count for what, count in found.items() if not what.endswith("/state.db")})


async def live(client: cri.Client, node: killable.Node, handler: str) -> None:
    """One pod: a container that ends by itself, and one that is told to; commands; a log."""
    pod = await workload.run_pod(client, workload.pod_spec(logs=node.logs, runtime_handler=handler))
    short = await pod.start("short", "sh", "-c", "echo once; exit 3")
    long = await pod.start("long", "sh", "-c", "sleep 600 & sleep 600")
    done = await client.exec_sync(long, ["sh", "-c", "echo hi; sleep 0 &"])
    assert (done.exit_code, done.stdout) == (0, b"hi\n")
    assert (await pod.exited(short)).exit_code == 3
    assert pod.output("short") == "once\n"
    await client.stop(long, 0)
    await pod.remove()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("handler", [*PROGRAMS, *SHIMS])
async def test_pods_leave_nothing(pulled: killable.Node, handler: str) -> None:
    if (PROGRAMS | SHIMS)[handler] is None:
        pytest.skip(f"no {handler} on PATH")
    await needs(pulled, handler)
    async with pulled.client() as client:
        await live(client, pulled, handler)  # what the first one makes for all
        before, held = pulled.has(), descriptors(pulled.pid)
        began, left = time.monotonic(), iter(range(PODS))

        async def work() -> None:
            for _ in left:
                await live(client, pulled, handler)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        print(f"{PODS} pods on {handler}, {AT_ONCE} at once, in {time.monotonic() - began:.0f} s")
        assert (await client.pods(), await client.containers()) == ([], [])
        pulled.settles(before)
        kernel.until(lambda: sorted(f"+ {count} {what}" for what, count in (descriptors(pulled.pid) - held).items()))
    assert sockets(pulled, handler) == []
