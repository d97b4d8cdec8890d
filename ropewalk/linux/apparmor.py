"""AppArmor as the kernel shows it: whether it is on, which profiles are loaded, what confines this process."""

from __future__ import annotations

import os

ENABLED = "/sys/module/apparmor/parameters/enabled"
PROFILES = "/sys/kernel/security/apparmor/profiles"  # "name (mode)", one a line; for root
CURRENT = ("/proc/self/attr/apparmor/current", "/proc/self/attr/current")  # the first since Linux 5.1
UNCONFINED = "unconfined"


def is_enabled() -> bool:
    return _read(ENABLED).startswith(b"Y")


def is_loaded(name: str) -> bool:
    """Whether the profile is loaded now. OSError if the kernel's list cannot be read: securityfs is not mounted."""
    with open(PROFILES, "rb") as file:
        return b"\n" + os.fsencode(name) + b" (" in b"\n" + file.read()


def own_profile() -> str:
    """Name of the profile that this process runs under; "unconfined" if there is none."""
    for path in CURRENT:
        if label := _read(path).strip(b"\0\n").decode(errors="replace"):
            return label.rpartition(" (")[0] or label
    return UNCONFINED


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # a kernel without AppArmor; EINVAL: attr belongs to no security module
        return b""
