"""What is recorded of a pod sandbox and of a container: what was asked, what was chosen, what happened.

Every kernel name (namespaces, addresses, cgroup, snapshot key, links) is chosen before the first side effect and
stands in the row, so whoever finds the row after a kill can undo or adopt the work.
"""

from __future__ import annotations

import enum

from msgspec import Struct, field

from ropewalk.network.attachment import Attachment
from ropewalk.runtimes.handler import Task
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import LinuxContainerResources, PodSpec


class PodPhase(enum.Enum):
    MAKING = "making"  # never listed
    READY = "ready"
    NOTREADY = "notready"


class Pod(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A pod sandbox. `boot_id`: the boot its kernel objects belong to."""

    id: str
    spec: PodSpec
    phase: PodPhase
    handler: str
    created_at: int  # nanoseconds since the epoch
    boot_id: str
    cgroup: str  # the parent of its containers' cgroups
    own_cgroup: bool = False  # made by us, because the request named no parent
    namespaces: dict[str, str] = field(
        default_factory=dict
    )  # OCI type -> pin path; absent: the node's or the container's own
    attachment: Attachment | None = None
    task: Task | None = field(default=None, name="init")  # what its handler needs for it; "init" in rows since 0.1
    selinux_level: str = ""  # of all its containers, "s0:c1,c2"; chosen with the row
    torn_down: bool = False  # STOP has released everything


class ContainerPhase(enum.Enum):
    MAKING = "making"  # never listed
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class User(Struct, frozen=True, omit_defaults=True):
    uid: int = 0
    gid: int = 0
    supplemental_groups: list[int] = field(default_factory=list)


class Container(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A container. Times are nanoseconds since the epoch, 0 until they happen."""

    id: str
    pod_id: str
    spec: ContainerSpec
    phase: ContainerPhase
    handler: str
    boot_id: str
    cgroup: str
    image_id: str  # Image.id, the same string everywhere
    image_name: str = ""  # the tag users know it by, or the id
    image_ref: str = ""  # repository@digest, or the id
    snapshot: str = ""  # key of the writable layer
    log_path: str = ""  # absolute; "": output is discarded
    user: User = User()
    stop_signal: int = 15  # the kernel's number
    resources: LinuxContainerResources = LinuxContainerResources()  # as they are now
    task: Task | None = None
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
