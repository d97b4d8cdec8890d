"""youki: Linux namespaces, a runtime in Rust. Its boundary is crun's."""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, structs

from ropewalk.runtimes import probes
from ropewalk.runtimes.drivers import bundle, oci
from ropewalk.runtimes.handler import Capabilities, ContainerPlan, Probe
from ropewalk.runtimes.monitors import monitor


class Config(oci.Config, frozen=True):
    path: Annotated[str, Meta(description="the youki program, a path or a name in PATH")] = "youki"


class State(Struct, frozen=True):
    """Of its state.json."""

    status: str = ""


class Handler(oci.Driver):
    """Namespaces, cgroups, capabilities and seccomp around an ordinary process of this kernel."""

    name = "youki"
    capabilities = Capabilities()
    exec_detaches = True  # its pid file must be a path that others could open, too

    def adapt(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Without no_new_privs a filter must be loaded before capabilities are dropped, which youki 0.7 does only where
        the field is absent (crates/libcontainer/src/process/init/process.rs); absent means false."""
        process = dict(spec["process"])
        if not process.get("noNewPrivileges"):
            process.pop("noNewPrivileges", None)
        return {**spec, "process": process}

    def launch(self, plan: ContainerPlan, own: bundle.Bundle) -> monitor.Launch:
        """It makes a link to what it is told in a directory of its own (crates/libcontainer/src/tty.rs), so that must
        be the whole path, of any length."""
        return structs.replace(super().launch(plan, own), console=own.path("console"))

    def is_started(self, id: str) -> bool:
        try:
            with open(os.path.join(self.root, id, "state.json"), "rb") as file:
                return msgspec.json.decode(file.read(), type=State).status not in ("creating", "created")
        except (FileNotFoundError, msgspec.MsgspecError):
            return False

    async def probe(self) -> Probe:
        return await probes.run_oci(self, packages="catatonit; youki: cargo install youki")
