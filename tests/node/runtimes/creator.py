"""A daemon that only creates one container and dies at a checkpoint: `creator.py STATE HANDLER MONITOR POINT < plan`.

POINT "" lets it come to its end. The plan is JSON; one without a log path and with id "pod" is an init.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys

import msgspec

from ropewalk import steps
from ropewalk.linux import cgroup
from ropewalk.runtimes.handler import ContainerPlan, Node, PodPlan
from ropewalk.spec.pod import PodSpec


async def main(state: str, name: str, monitor: str, point: str) -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=ContainerPlan)

    def checkpoint(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.checkpoint = checkpoint
    module = importlib.import_module(f"ropewalk.runtimes.handlers.{name}")
    handler = module.Handler(module.Config(monitor=monitor), Node(state, cgroup.detect()))
    if plan.id == "pod":
        pod = PodPlan(plan.id, PodSpec(), plan.spec, cgroup=plan.cgroup, parent=os.path.dirname(plan.cgroup))
        await handler.create_pod(pod)
    else:
        await handler.create(plan)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
