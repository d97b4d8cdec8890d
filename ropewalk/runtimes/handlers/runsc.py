"""gVisor: system calls of a pod are served by its own kernel in user space, the Sentry."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, structs

from ropewalk.runtimes.drivers import oci
from ropewalk.runtimes.drivers.runsc import driver as runsc
from ropewalk.runtimes.drivers.runsc import platforms
from ropewalk.runtimes.handler import Boundary, Capabilities, Node, Probe
from ropewalk.runtimes.monitors import own


class Config(oci.Config, frozen=True):
    path: Annotated[str, Meta(description="the runsc program, a path or a name in PATH")] = "runsc"
    monitor: Annotated[str, Meta(description="ropewalk-monitor, or its path; conmon cannot serve gVisor")] = own.NAME
    init: Annotated[str, Meta(description="a static catatonit: the process that a Sentry begins with")] = "catatonit"
    platform: Annotated[
        str,
        Meta(
            description="How the Sentry gets hold of system calls: systrap, ptrace or kvm; empty: the first of systrap "
            "and ptrace that runs here."
        ),
    ] = ""
    host_network: Annotated[
        bool,
        Meta(
            description="Let pods with the node's network run (--network=host). Their Sentry then makes socket calls "
            "of the node's kernel, which weakens the boundary; false: they are refused."
        ),
    ] = False
    flags: Annotated[
        tuple[str, ...],
        Meta(description="More global flags of runsc, such as --net-raw or --overlay2=none; see runsc flags."),
    ] = ()


CAPABILITIES = Capabilities(
    boundary=Boundary.USER_KERNEL,
    host_network=False,
    host_pid=False,
    host_ipc=False,
    target_pid=False,
    privileged=False,
    devices=False,
    sysctls=False,
    seccomp=False,
    apparmor=False,
    mount_propagation=False,
    container_limits=False,
    update=False,
    port_forward=False,  # until a probe has seen a build that can
)


class Handler(runsc.Driver):
    """A Sentry per pod, and a gofer per container that opens files for it."""

    name = "runsc"
    capabilities = CAPABILITIES

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        super().__init__(config, node, name=name)
        self.platform = config.platform
        self.flags = config.flags
        self.capabilities = structs.replace(CAPABILITIES, host_network=config.host_network)

    async def probe(self) -> Probe:
        seen = await platforms.probe(self, self.platform)
        self.learn(runsc.read_facts(seen.facts))
        self.capabilities = structs.replace(
            self.capabilities, port_forward=self.facts.port_forward, checkpoint=self.facts.checkpoint
        )
        return seen
