"""Any containerd shim (shim v2) as a handler: runc's own, Kata's, gVisor's, runwasi's, or one of yours.

    [runtimes.kata]
    type = "shim"
    path = "io.containerd.kata.v2"
    config_path = "/opt/kata/share/defaults/kata-containers/configuration.toml"

What a shim needs beyond its path is known of the families below, by its file name; every key of it can be set.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct, field, structs

from ropewalk.errors import Invalid
from ropewalk.runtimes import handler, probes
from ropewalk.runtimes.drivers.shim import binary, driver, options
from ropewalk.runtimes.handler import Boundary, Capabilities, Node, Probe
from ropewalk.runtimes.monitors import own

VIRTUAL = Capabilities(
    boundary=Boundary.VIRTUAL_MACHINE,
    host_network=False,
    host_pid=False,
    host_ipc=False,
    target_pid=False,
    privileged=False,
    devices=False,
    seccomp=False,
    apparmor=False,
    mount_propagation=False,
    port_forward=False,  # the pod's loopback is the guest's
)


class Family(Struct, frozen=True):
    """`part`: of the file name. `type`: of the options' text, where the family has only one."""

    part: str
    capabilities: Capabilities
    sandbox: str
    rootfs: str
    type: str = ""


FAMILIES = (
    Family("-runc-", Capabilities(), "none", "mounted"),
    Family("-kata-", VIRTUAL, "auto", "handed"),
    Family(
        "-runsc-",
        structs.replace(VIRTUAL, boundary=Boundary.USER_KERNEL, container_limits=False),
        "container",
        "handed",
        "io.containerd.runsc.v1.options",
    ),
    Family("", VIRTUAL, "auto", "handed"),
)


class Config(handler.Config, frozen=True):
    path: Annotated[
        str, Meta(description='The shim: a path, a name in PATH, or a runtime\'s name ("io.containerd.kata.v2").')
    ] = "io.containerd.runc.v2"
    engine: Annotated[str, Meta(description="OCI runtime below runc's shim; other shims have none.")] = "crun"
    config_path: Annotated[
        str, Meta(description="Configuration file of the shim's runtime, as Kata's; empty: where it looks itself.")
    ] = ""
    config: Annotated[str, Meta(description="The shim's options as text, for those that take such, as gVisor's.")] = ""
    config_type: Annotated[str, Meta(description="Type (URL) of that text; empty: what the shim's family has.")] = ""
    boundary: Annotated[
        Literal["", "namespaces", "user-space kernel", "virtual machine", "unikernel"],
        Meta(description="What stands between a container and the node's kernel; empty: what the shim's family has."),
    ] = ""
    sandbox: Annotated[
        Literal["", "none", "container", "api", "auto"],
        Meta(
            description='What a pod needs before its containers: "none", a "container" that waits, a sandbox by the '
            'shim\'s Sandbox "api", or "auto": the API where it is served, else the container. Empty: as the family.'
        ),
    ] = ""
    rootfs: Annotated[
        Literal["", "mounted", "handed"],
        Meta(
            description='Root file systems are "mounted" before the shim sees them, or their mounts are "handed" to '
            "it. Empty: as the family."
        ),
    ] = ""
    capabilities: Annotated[
        dict[str, bool],
        Meta(description="What the handler can do, where it differs from its family: privileged = true, and so on."),
    ] = field(default_factory=dict)
    env: Annotated[dict[str, str], Meta(description="Environment variables of the shim.")] = field(default_factory=dict)
    monitor: Annotated[
        str, Meta(description='What writes the logs: "ropewalk-monitor" (the one that comes along), or its path.')
    ] = own.NAME
    init: Annotated[str, Meta(description="A static catatonit: what waits in a pod's own container.")] = "catatonit"


class Handler(driver.Driver):
    """A shim per pod, asked over ttrpc."""

    name = "shim"
    capabilities = Capabilities()  # its section's, once it is read

    def __init__(self, config: Config, node: Node, *, name: str = "") -> None:
        family = family_of(config.path)
        self.capabilities = build_capabilities(config, family)
        super().__init__(config, node, build_settings(config, family, self.capabilities, node), name=name)

    async def probe(self) -> Probe:
        return await probes.run_shim(self)


def family_of(path: str) -> Family:
    file = os.path.basename(binary.file_name(path))
    return next(family for family in FAMILIES if family.part in file)


def build_capabilities(config: Config, family: Family) -> Capabilities:
    """The family's with what the section says. Invalid if it names one that there is not."""
    unknown = sorted(
        set(config.capabilities) - {*Capabilities.__struct_fields__} | {"boundary"} & {*config.capabilities}
    )
    if unknown:
        known = ", ".join(name for name in Capabilities.__struct_fields__ if name != "boundary")
        raise Invalid(f"runtimes: capabilities has no {unknown[0]!r}", hint=f"there are {known}")
    boundary = Boundary(config.boundary) if config.boundary else family.capabilities.boundary
    return structs.replace(family.capabilities, boundary=boundary, **config.capabilities)


def build_settings(config: Config, family: Family, capabilities: Capabilities, node: Node) -> driver.Settings:
    if family.part == "-runc-":
        given = options.build_runc(root=os.path.join(node.state, "runtimes"), binary=config.engine)
    else:
        type = config.config_type or family.type
        given = options.build_generic(config_path=config.config_path, type_url=type, config=config.config)
    sandbox = config.sandbox or family.sandbox
    return driver.Settings(
        program=config.path,
        logger=own.SHIPPED if config.monitor == own.NAME else config.monitor,
        init=config.init,
        boundary=capabilities.boundary,
        engine=config.engine if family.part == "-runc-" else "",
        file=config.config_path,
        options=given.SerializeToString(),
        sandbox="task" if sandbox == "container" else sandbox,
        hand_over=(config.rootfs or family.rootfs) == "handed",
        env=config.env,
    )
