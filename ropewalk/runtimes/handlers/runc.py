"""runc: Linux namespaces, the OCI's reference runtime. A Go program that creates a container in about 30 ms."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ropewalk.runtimes import probes
from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.handler import Capabilities, Probe


class Config(oci.Config, frozen=True):
    path: Annotated[str, Meta(description="the runc program, a path or a name in PATH")] = "runc"


class Handler(oci.Driver):
    """The boundary is crun's: namespaces, cgroups, capabilities and seccomp around a process of this kernel."""

    name = "runc"
    capabilities = Capabilities()
    exec_detaches = True

    async def probe(self) -> Probe:
        return await probes.run_oci(self, packages="runc catatonit")
