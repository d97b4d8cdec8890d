"""What the spec depends on besides the request: facts of the node, and host paths and devices already looked up."""

from __future__ import annotations

from msgspec import Struct, field

from ropewalk.linux.selinux import Contexts
from ropewalk.runtimes.oci import capabilities
from ropewalk.spec.container import Mount


class NodeFacts(Struct, frozen=True, kw_only=True):
    """What this node, and the handler on it, can do. Probed once by whoever wires the daemon."""

    capabilities: frozenset[str] = capabilities.KNOWN  # the daemon's bounding set, "CAP_CHOWN", …
    cgroup_version: int = 2  # 1: v1 or hybrid
    architecture: str = "x86_64"  # uname -m
    kernel: tuple[int, int] = (5, 14)
    hostname: str = "localhost"  # HOSTNAME of host network containers
    can_lower_oom: bool = True  # CAP_SYS_RESOURCE
    oom_score_adj: int = 0  # the daemon's own; the floor when it cannot be lowered
    open_files: tuple[int, int] | None = None  # soft and hard RLIMIT_NOFILE for containers; None: the daemon's own
    hugepage_sizes: frozenset[str] = frozenset()  # "2MB", "1GB"; empty: no hugetlb controller
    swap: bool = True  # memory.swap.max or memory.memsw.limit_in_bytes exists
    recursive_read_only: bool = False  # the handler knows "rro" (runtime features mountOptions) and Linux >= 5.12
    apparmor: bool = False
    apparmor_default: str = ""  # name of the default profile, if it is loaded now
    apparmor_problem: str = ""  # why it is not
    apparmor_profiles: frozenset[str] = frozenset()  # of those that the request names, which are loaded now
    selinux: Contexts | None = None  # the policy's for containers; None: containers are not labelled


class ResolvedMount(Struct, frozen=True):
    """A requested mount whose host path was looked up."""

    mount: Mount
    source: str  # realpath of mount.host_path; it exists
    propagation: str = ""  # of the mount that `source` lies on: "shared", "slave", "private"; "": not looked up
    locked: list[str] = field(default_factory=list)  # options of that mount which a user namespace cannot take away


class HostDevice(Struct, frozen=True):
    """A device node of the node, as it shall appear in the container."""

    path: str  # in the container
    type: str  # "c", "b" or "p" (mknod(1))
    major: int
    minor: int
    mode: int = 0o666  # permission bits
    uid: int = 0
    gid: int = 0
    permissions: str = "rwm"  # cgroup access


class ResolvedUser(Struct, frozen=True):
    """The identity of the container's first process. The primary gid is the first of the supplemental groups."""

    uid: int = 0
    gid: int = 0
    supplemental_groups: list[int] = field(default_factory=list)
    home: str = "/"
