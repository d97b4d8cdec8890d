"""Facts of this node that decide how containers are made, read once at the start."""

from __future__ import annotations

import logging
import os
import re
import resource

from ropewalk.errors import Invalid
from ropewalk.linux import apparmor, caps, selinux
from ropewalk.linux.cgroup import Cgroups
from ropewalk.runtimes.oci.facts import NodeFacts

log = logging.getLogger(__name__)

_HUGEPAGES = "/sys/kernel/mm/hugepages"  # hugepages-2048kB, ...
_UNITS = ((1 << 20, "GB"), (1 << 10, "MB"), (1, "KB"))  # of KiB: the kernel's file says kB, cgroup files say MB


def raise_open_files() -> tuple[int, int]:
    """Let this process open as many files as it may: it holds a few for each container. The limits as they were,
    which containers get: programs that close every possible descriptor take minutes under a high soft limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def read_facts(cgroups: Cgroups, open_files: tuple[int, int], *, label: bool = False) -> NodeFacts:
    """`open_files`: for containers. `label`: give them SELinux labels, where this kernel has SELinux. What a
    handler can do is added by whoever knows the pod's."""
    names = os.uname()
    return NodeFacts(
        capabilities=caps.bounding(),
        cgroup_version=cgroups.version,
        architecture=names.machine,
        kernel=_release(names.release),
        hostname=names.nodename,
        can_lower_oom="CAP_SYS_RESOURCE" in caps.effective(),
        oom_score_adj=int(_read("/proc/self/oom_score_adj") or 0),
        open_files=open_files,
        hugepage_sizes=_hugepages() if "hugetlb" in cgroups.controllers() else frozenset(),
        swap=_accounts_swap(cgroups),
        apparmor=apparmor.is_enabled(),
        selinux=_contexts(label=label),
    )


def _read(path: str) -> str:
    """The file's text; "" where this kernel has none, or keeps it from us."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _release(text: str) -> tuple[int, int]:
    """ "6.1.0-18-amd64" is (6, 1)."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _contexts(*, label: bool) -> selinux.Contexts | None:
    """The policy's for containers; a setting that has no effect, or is missing, is said."""
    on = selinux.is_enabled()
    if label is not on:
        said = "SELinux is on, and containers are not labelled" if on else "SELinux is not on: no container is labelled"
        log.warning(said, extra={"advice": f"set selinux = {str(on).lower()}"})
    contexts = selinux.read_contexts() if label and on else None
    if label and on and contexts is None:
        raise Invalid(
            "selinux = true, and the policy has no contexts for containers",
            hint="install container-selinux, or set selinux = false",
        )
    return contexts


def _hugepages() -> frozenset[str]:
    names = os.listdir(_HUGEPAGES) if os.path.isdir(_HUGEPAGES) else []
    return frozenset(page_size(int(found[1])) for name in names if (found := re.fullmatch(r"hugepages-(\d+)kB", name)))


def page_size(kibibytes: int) -> str:
    """As the hugetlb controller's files are called: 2048 is "2MB"."""
    size, unit = next((size, unit) for size, unit in _UNITS if kibibytes >= size)
    return f"{kibibytes // size}{unit}"


def _accounts_swap(cgroups: Cgroups) -> bool:
    """Whether swap can be limited. v2 has the file below the root only, wherever the kernel has swap at all."""
    if cgroups.version == 2:
        return os.path.exists("/proc/swaps")
    return any(os.path.exists(f"{path}/memory.memsw.limit_in_bytes") for path in cgroups.directories("/"))


def instance(root: str, default: str) -> tuple[str, str]:
    """The name that begins every kernel name of the daemon on `root`, and its tag of four hex digits: two daemons on
    one machine never meet. The one on the default root is "ropewalk", "0000"."""
    import hashlib  # OpenSSL's library, which nothing else here needs

    real = os.path.realpath(root)
    if real == default:
        return "ropewalk", "0000"
    tag = hashlib.sha256(real.encode()).hexdigest()[:4]
    return f"ropewalk-{tag}", tag
