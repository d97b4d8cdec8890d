"""Values that shims take as Any: a type's name, and bytes that only the receiver understands."""

from __future__ import annotations

from typing import Any

import msgspec

from ropewalk.linux import cgroup_systemd
from ropewalk.wire.pb import shim_pb2 as pb

RUNC = "containerd.runc.v1.Options"
GENERIC = "runtimeoptions.v1.Options"
SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"


def build_runc(*, root: str, binary: str = "") -> pb.Any:
    """Of containerd-shim-runc-v2. `root`: where the OCI runtime keeps its state; `binary`: which one, "" for runc."""
    value = pb.RuncOptions(root=root, binary_name=binary)
    return pb.Any(type_url=RUNC, value=value.SerializeToString())


def place(options: bytes, cgroup: str) -> pb.Any:
    """A handler's options for one container: runc is told when its control group is a systemd scope."""
    given = pb.Any.FromString(options)
    if given.type_url == RUNC and cgroup_systemd.is_scope(cgroup):
        value = pb.RuncOptions.FromString(given.value)
        value.systemd_cgroup = True
        given.value = value.SerializeToString()
    return given


def build_generic(*, config_path: str = "", type_url: str = "", config: str = "") -> pb.Any:
    """Of every other shim: its configuration as a file, or as text whose type `type_url` names."""
    value = pb.RuntimeOptions(type_url=type_url, config_path=config_path, config_body=config.encode())
    return pb.Any(type_url=GENERIC, value=value.SerializeToString())


def build_process(process: dict[str, Any]) -> pb.Any:
    """An OCI process object, for Exec."""
    return pb.Any(type_url=f"{SPEC}Process", value=msgspec.json.encode(process))


def build_resources(resources: dict[str, Any]) -> pb.Any:
    """linux.resources, for Update."""
    return pb.Any(type_url=f"{SPEC}LinuxResources", value=msgspec.json.encode(resources))
