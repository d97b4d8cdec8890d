"""crun: Linux namespaces, the default handler. A small C program that creates a container in about 10 ms."""

from __future__ import annotations

import os
import shutil
from typing import Annotated, Any

from msgspec import Meta

from ropewalk.runtimes import probes, wasm
from ropewalk.runtimes.drivers import filters, oci
from ropewalk.runtimes.handler import Capabilities, ContainerPlan, Node, PodPlan, Probe


class Config(oci.Config, frozen=True):
    path: Annotated[str, Meta(description="the crun program, a path or a name in PATH")] = "crun"


class Handler(oci.Driver):
    """Namespaces, cgroups, capabilities and seccomp around an ordinary process of this kernel."""

    name = "crun"
    capabilities = Capabilities()

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        super().__init__(config, node, name=name)
        self.filters = filters.Filters()

    def adapt(self, spec: dict[str, Any]) -> dict[str, Any]:
        given = self.filters.attach(spec, self.filters.compiler(self.command.source))
        if not filters.is_attached(given):
            # crun's own cache, in builds that have one, takes profiles for equal that differ in a rule's errno only, or
            # in where a name ends (its calculate_seccomp_checksum). What is learned must be compiled.
            shutil.rmtree(os.path.join(self.root, ".cache", "seccomp"), ignore_errors=True)
        return given

    def created(self, plan: ContainerPlan | PodPlan, given: dict[str, Any]) -> None:
        if filters.is_attached(given):
            return
        compiled = os.path.join(self.root, plan.id, "seccomp.bpf")
        self.filters.learn(given, compiled, self.filters.compiler(self.command.source))

    def spec(self, id: str) -> dict[str, Any]:
        return filters.detach(super().spec(id))

    async def probe(self) -> Probe:
        found = await probes.run_oci(self, packages="crun catatonit")
        if found.works and self.config.annotations.get(wasm.HANDLER) in wasm.KINDS:
            return await wasm.check(self, found)
        return found
