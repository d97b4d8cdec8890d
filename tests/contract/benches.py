"""A place to try the driver of shims in, with fake shims (tests/fakes/shim.py) that behave as a test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk import ids
from ropewalk.runtimes import trial
from ropewalk.runtimes.handler import ContainerPlan, PodPlan, Task
from ropewalk.runtimes.handlers import shim
from ropewalk.spec import pod as pods
from tests.fakes import shim as fake
from tests.fakes.boxes import Box, Place
from tests.fakes.shim import Behaviour

SANDBOX = "io.kubernetes.cri.sandbox-id"
KATA = "containerd-shim-kata-v2"
OPTIONS = pods.NamespaceOption(pid=pods.NamespaceMode.CONTAINER)  # kubelet's default
SECURITY = pods.LinuxSandboxSecurityContext(namespace_options=OPTIONS)
SPEC = pods.PodSpec(linux=pods.LinuxPodSandboxConfig(security_context=SECURITY))


class Bench:
    """A place, and handlers of fake shims in it."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place, self.directory = place, directory
        self.handlers: list[shim.Handler] = []
        self.program = Path()

    def make(self, behaviour: Behaviour | None = None, *, name: str = KATA, **config: Any) -> shim.Handler:
        self.program = fake.install(self.directory / "shims", behaviour, name)
        return self.again(**config)

    def again(self, **config: Any) -> shim.Handler:
        """The next daemon's."""
        self.handlers.append(shim.Handler(shim.Config(path=str(self.program), **config), self.place.node))
        return self.handlers[-1]

    def real(self, program: Path) -> shim.Handler:
        """Of a shim that is none of ours, with the defaults of its family."""
        self.handlers.append(shim.Handler(shim.Config(path=str(program)), self.place.node))
        return self.handlers[-1]

    def behave(self, behaviour: Behaviour) -> None:
        """From the next start on."""
        fake.install(self.directory / "shims", behaviour, self.program.name)

    async def pod(self, handler: shim.Handler, netns: str = "") -> tuple[str, Task]:
        id = ids.new_id()
        path = f"{self.place.cgroup}/{id}"
        spec = trial.build_spec(path)
        spec["annotations"] = {SANDBOX: id, "io.kubernetes.cri.container-type": "sandbox"}
        namespaces = {"network": netns} if netns else {}
        plan = PodPlan(
            id,
            SPEC,
            spec,
            cgroup=path,
            parent=self.place.cgroup,
            namespaces=namespaces,
            monitor_cgroup=f"{self.place.cgroup}/monitors",
        )
        task = await handler.create_pod(plan)
        assert task is not None
        return id, task

    async def box(self, handler: shim.Handler, pod: str, *args: str, start: bool = True, **options: Any) -> Box:
        plan = self.place.plan(*args, pod_id=pod, **options)
        plan.spec["annotations"] = {SANDBOX: pod}
        return await make_box(handler, plan, start=start)

    def called(self, method: str) -> list[dict[str, Any]]:
        return [call for call in fake.calls(self.program) if call["method"] == method]


async def make_box(handler: shim.Handler, plan: ContainerPlan, *, start: bool = True) -> Box:
    """In a pod that is there already."""
    box = Box(handler, plan, await handler.create(plan))
    if start:
        await box.start()
    return box
