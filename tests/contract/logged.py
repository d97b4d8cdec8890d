"""A daemon that starts one container of a shim and is killed: `logged.py STATE SHIM LOGGER < plan`.

The container's output goes to the shim's own logger, binary://LOGGER, as `ctr run --log-uri` would have it. The
container's pid is printed once it runs.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ropewalk.linux import cgroup
from ropewalk.runtimes.drivers.shim import stdio
from ropewalk.runtimes.handler import ContainerPlan, Node
from ropewalk.runtimes.handlers import shim


async def main(state: str, program: str, logger: str) -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=ContainerPlan)
    uri = f"binary://{quote(logger)}?{urlencode({'log': plan.log_path})}"

    class Loggers(stdio.Loggers):
        """None of ours: the shim starts its own."""

        def start(self, id: str, own: Any, paths: stdio.Paths, log_path: str, leaf: str) -> stdio.Logger:
            return stdio.Logger(own, stdio.Paths(stdout=uri, stderr=uri))

    handler = shim.Handler(shim.Config(path=program), Node(state, cgroup.detect()))
    handler.loggers = Loggers(logger, handler.cgroups)
    task = await handler.create(plan)
    await handler.start(plan.id, task)
    print(task.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
