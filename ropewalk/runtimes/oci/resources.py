"""Limits of a container as linux.resources, and its OOM score (contract 6.10). Zero means "not set"."""

from __future__ import annotations

import re
from typing import Any

from ropewalk import errors
from ropewalk.linux import cgroup_v2
from ropewalk.runtimes.oci.facts import NodeFacts
from ropewalk.spec.pod import HugepageLimit, LinuxContainerResources

# A file of the container's own cgroup: no path, and not what moves processes (cgroup.procs, cgroup.kill, …).
_UNIFIED_KEY = re.compile(r"(?!cgroup\.)[a-z][a-z0-9_]*(\.[A-Za-z0-9_]+)+\Z", re.ASCII)
_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*\Z", re.ASCII)
_PAGE_SIZE = re.compile(r"[0-9]+[KMG]B\Z", re.ASCII)


def build(resources: LinuxContainerResources, facts: NodeFacts) -> dict[str, Any]:
    """linux.resources without devices."""
    check(resources)
    sections = {
        "cpu": _cpu(resources),
        "memory": _memory(resources, facts),
        "hugepageLimits": _hugepages(resources.hugepage_limits, facts),
        "unified": _unified(resources, facts),
    }
    return {name: section for name, section in sections.items() if section}


def oom_score_adj(resources: LinuxContainerResources, facts: NodeFacts) -> int:
    """Always written, since a container must not inherit the daemon's. Without CAP_SYS_RESOURCE nobody can go below
    the daemon's own score, so that is the least."""
    if facts.can_lower_oom:
        return resources.oom_score_adj
    return max(resources.oom_score_adj, facts.oom_score_adj)


def check(resources: LinuxContainerResources) -> None:
    """Values that no kernel accepts."""
    for field in ("cpu_period", "cpu_shares"):
        if getattr(resources, field) < 0:
            raise errors.Invalid(f"linux.resources.{field} is {getattr(resources, field)}", hint="0 leaves it unset")
    if not -1000 <= resources.oom_score_adj <= 1000:
        raise errors.Invalid(f"linux.resources.oom_score_adj is {resources.oom_score_adj}", hint="-1000 to 1000")
    for field in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(resources, field)
        if value and not _CPU_LIST.match(value):
            raise errors.Invalid(f"linux.resources.{field} is {value[:80]!r}", hint='a list like "0-3,8" is needed')
    memory, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    if memory > 0 and 0 < swap < memory:
        raise errors.Invalid(
            f"linux.resources.memory_swap_limit_in_bytes is {swap}, less than memory_limit_in_bytes {memory}",
            hint="it is the total of memory and swap",
        )
    for limit in resources.hugepage_limits:
        if not _PAGE_SIZE.match(limit.page_size) or limit.limit < 0:
            raise errors.Invalid(
                f"linux.resources.hugepage_limits has page_size {limit.page_size[:40]!r}, limit {limit.limit}",
                hint='a page size is written "2MB" or "1GB"',
            )
    for key, value in resources.unified.items():
        if not _UNIFIED_KEY.match(key) or "\n" in value or "\0" in value:
            raise errors.Invalid(
                f"linux.resources.unified has {key[:80]!r}: {value[:80]!r}",
                hint='keys are files of cgroup v2 controllers like "memory.high", values are one line',
            )


def _cpu(resources: LinuxContainerResources) -> dict[str, Any]:
    values: dict[str, Any] = {
        "shares": resources.cpu_shares,
        "quota": resources.cpu_quota,  # negative: unlimited
        "period": resources.cpu_period,
        "cpus": resources.cpuset_cpus,
        "mems": resources.cpuset_mems,
    }
    return {name: value for name, value in values.items() if value}


def _memory(resources: LinuxContainerResources, facts: NodeFacts) -> dict[str, Any]:
    """`swap` is the total of memory and swap; equal to the limit means no swap, which is also the default."""
    limit, swap = resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes
    memory: dict[str, Any] = {"limit": limit} if limit else {}
    if facts.swap and (swap or limit):
        memory["swap"] = swap or limit
    return memory


def _hugepages(limits: list[HugepageLimit], facts: NodeFacts) -> list[dict[str, Any]]:
    """The kubelet sends a zero for every size: without the controller that says nothing, with it "none"."""
    kept: list[dict[str, Any]] = []
    for limit in limits:
        if limit.page_size in facts.hugepage_sizes:
            kept.append({"pageSize": limit.page_size, "limit": limit.limit})
        elif limit.limit:
            known = ", ".join(sorted(facts.hugepage_sizes)) or "no hugetlb controller"
            raise errors.Unsupported(
                f"linux.resources.hugepage_limits wants {limit.limit} bytes of {limit.page_size} pages",
                hint=f"this node has {known}",
            )
    return kept


def _unified(resources: LinuxContainerResources, facts: NodeFacts) -> dict[str, str]:
    if resources.unified and facts.cgroup_version != 2:
        raise errors.Invalid(
            f"linux.resources.unified has {min(resources.unified)!r}, and this node has cgroup v{facts.cgroup_version}",
            hint="unified needs a node with cgroup v2",
        )
    weight = {"cpu.weight": str(cgroup_v2.weight(resources.cpu_shares))} if resources.cpu_shares else {}
    # Else it depends on the runtime's version, and an update, which is ours, would go by another rule than the create.
    return {**(weight if facts.cgroup_version == 2 else {}), **resources.unified}
