"""What stands for a handler that rows name and the configuration does not have any more.

Its containers can be seen, signalled, ended and removed: processes are found by pid and start time and by their cgroup,
mounts below the directory of the bundle. Nothing can be made. What the runtime itself keeps, and the bundle that says
whose it is, stay where they are until the section is back: its handler's sweep takes them then.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import process
from ropewalk.runtimes import handler
from ropewalk.runtimes.drivers import bundle
from ropewalk.runtimes.handler import Capabilities, ContainerPlan, ExecResult, Exit, Observation, Task
from ropewalk.spec.pod import LinuxContainerResources


class Vanished(RopewalkError):
    kind = Kind.STATE

    def __init__(self, name: str) -> None:
        super().__init__(
            f"its runtime handler {name!r} is not in the configuration any more: it can only be stopped and removed",
            hint=f"put [runtimes.{name}] back and restart the daemon",
        )


class Handler(handler.Handler):
    """See the module. Every method that would need the runtime raises Vanished."""

    capabilities = Capabilities()

    def _bundle(self, id: str) -> bundle.Bundle:
        return bundle.Bundle(os.path.join(self.node.state, "containers", id))

    def _refuse(self) -> NoReturn:
        raise Vanished(self.name)

    async def probe(self) -> handler.Probe:
        self._refuse()

    async def create(self, plan: ContainerPlan) -> Task:
        self._refuse()

    async def start(self, id: str, task: Task) -> None:
        self._refuse()

    async def exec(self, id: str, task: Task, process: dict[str, Any], *, timeout: float, limit: int) -> ExecResult:
        self._refuse()

    async def update(self, id: str, task: Task, resources: LinuxContainerResources) -> None:
        self._refuse()

    async def reopen_log(self, id: str, task: Task) -> None:
        self._refuse()

    def spec(self, id: str) -> dict[str, Any]:
        return self._bundle(id).read_config()

    async def observe(self, id: str, task: Task) -> Observation:
        return Observation(alive=process.is_alive(task.pid, task.pid_start))

    async def wait(self, id: str, task: Task, cgroup: str) -> Exit:
        """Raises once it has ended: only its handler can tell how."""
        await process.ended(task.pid, task.pid_start)
        self._refuse()

    async def signal(self, id: str, task: Task, signum: int) -> None:
        process.send(task.pid, task.pid_start, signum)

    async def kill(self, id: str, task: Task, cgroup: str) -> None:
        if cgroup:
            await self.node.cgroups.kill(cgroup)

    async def delete(self, id: str, cgroup: str) -> None:
        if cgroup:
            await self.node.cgroups.kill(cgroup)
            await self.node.cgroups.remove(cgroup)
        self._bundle(id).unmount()

    async def sweep(self, owned: set[str]) -> list[str]:
        return []
