"""runc: Linux namespaces, the OCI's reference runtime. A Go program that creates a container in about 30 ms."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ropewalk.runtimes import handler, probes
from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.handler import Capabilities, Node, Probe


class Config(handler.Config, frozen=True):
    path: Annotated[str, Meta(description="the runc program, a path or a name in PATH")] = "runc"
    monitor: Annotated[str, Meta(description="ropewalk-monitor (which comes along), conmon, or the path of either")] = (
        "ropewalk-monitor"
    )
    init: Annotated[str, Meta(description="a static catatonit: init of pods with a shared PID namespace")] = "catatonit"


class Handler(oci.Driver):
    """The boundary is crun's: namespaces, cgroups, capabilities and seccomp around a process of this kernel."""

    name = "runc"
    capabilities = Capabilities()
    exec_detaches = True

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        super().__init__(config, node, oci.Programs(config.path, config.monitor, config.init), name=name)

    async def probe(self) -> Probe:
        return await probes.run_oci(self, packages="runc catatonit")
