"""Capabilities: names, numbers, and which of them this process may pass on."""

from __future__ import annotations

NAMES = (  # include/uapi/linux/capability.h, by number
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def parse_mask(mask: str) -> frozenset[str]:
    """Names in a hexadecimal mask of /proc/PID/status; bits without a name here are left out."""
    bits = int(mask, 16)
    return frozenset(name for number, name in enumerate(NAMES) if bits >> number & 1)


def read_status(field: str, path: str = "/proc/self/status") -> frozenset[str]:
    """`field` is "CapBnd", "CapEff", "CapPrm", "CapInh" or "CapAmb"."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return parse_mask(line.partition(":")[2])
    raise LookupError(f"{path} has no {field}")


def bounding() -> frozenset[str]:
    """What this process can give to others at most: "all" of a privileged container means these."""
    return read_status("CapBnd")


def effective() -> frozenset[str]:
    return read_status("CapEff")


def last_cap() -> int:
    """The highest number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())
