"""SELinux labels of a pod's containers: options of the request over the policy's contexts (contract 6.9).

All containers of a pod share one level, a pair of categories that no other pod has, so that they share the pod's files
and nobody else's. The level is part of the pod's row. Options of a container count instead of the pod's (the kubelet
merges them before), a missing level is the pod's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container

from msgspec import Struct

from ropewalk import errors
from ropewalk.linux.selinux import Contexts
from ropewalk.spec.pod import PodSpec, SELinuxOption

CATEGORIES = 1024  # of the MCS policies that distributions ship

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,255}\Z", re.ASCII)
_CATEGORY = r"c\d{1,4}(?:\.c\d{1,4})?"
_SENSITIVITY = rf"s\d{{1,2}}(?::{_CATEGORY}(?:,{_CATEGORY})*)?"
_LEVEL = re.compile(rf"{_SENSITIVITY}(?:-{_SENSITIVITY})?\Z", re.ASCII)  # one, or a range


class Labels(Struct, frozen=True):
    """`process`: of the container's processes. `mount`: of its root file system and of files made for it."""

    process: str = ""
    mount: str = ""


def check(options: SELinuxOption | None, field: str = "linux.security_context.selinux_options") -> None:
    if options is None:
        return
    for name in ("user", "role", "type"):
        value = getattr(options, name)
        if value and not _WORD.match(value):
            raise errors.Invalid(f"{field}.{name} is {value[:80]!r}", hint="a name of the node's policy is needed")
    if options.level and not _LEVEL.match(options.level):
        raise errors.Invalid(f"{field}.level is {options.level[:80]!r}", hint='the form is "s0:c123,c456"')


def level(contexts: Contexts | None, options: SELinuxOption | None, taken: Container[str]) -> str:
    """Of a new pod: the one it asks for, or one that is not among those `taken`; "" without labels or levels."""
    if contexts is None or (options is not None and options.level):
        return options.level if contexts is not None and options is not None else ""
    if contexts.process.count(":") < 3:
        return ""
    while True:
        first, second = sorted(random.sample(range(CATEGORIES), 2))
        chosen = f"s0:c{first},c{second}"
        if chosen not in taken:
            return chosen


def of_pod(contexts: Contexts | None, pod: PodSpec, level: str) -> str:
    """The label of the files that its containers share."""
    options = pod.linux.security_context.selinux_options
    return labels(contexts, None, pod=options, level=level, privileged=False).mount


def labels(
    contexts: Contexts | None,
    options: SELinuxOption | None,
    *,
    pod: SELinuxOption | None,
    level: str,
    privileged: bool,
) -> Labels:
    """`options`: the container's, `pod`: the pod's, `level`: of the pod's row. Privileged processes have no label, as
    with containerd, but their files have."""
    if contexts is None:
        return Labels()
    chosen = options if options is not None and options != SELinuxOption() else pod or SELinuxOption()
    mine = chosen.level or level
    user, role, type, *_ = contexts.process.split(":", 3)
    process = ":".join((chosen.user or user, chosen.role or role, chosen.type or type, *([mine] if mine else [])))
    user, role, type, *_ = contexts.file.split(":", 3)
    mount = ":".join((chosen.user or user, role, type, *([mine] if mine else [])))
    return Labels("" if privileged else process, mount)
