"""A daemon that only creates one container, and is killed at a given checkpoint: `creator.py STATE POINT < plan`.

POINT "" lets it come to its end. The plan is JSON; one without a log path and with id "pod" is an init.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec

from ropewalk import steps
from ropewalk.linux import cgroup
from ropewalk.runtimes.handler import ContainerPlan, Node
from ropewalk.runtimes.handlers import crun


async def main(state: str, point: str) -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=ContainerPlan)

    def checkpoint(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.checkpoint = checkpoint
    handler = crun.Handler(crun.Config(), Node(state, cgroup.detect()))
    if plan.id == "pod":
        await handler.create_init(plan.id, plan.spec, plan.cgroup)
    else:
        await handler.create(plan)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
