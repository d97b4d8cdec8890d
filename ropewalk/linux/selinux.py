"""SELinux of this node: whether it is on, which contexts its policy has for containers, labels of files.

A label is user:role:type, and with an MLS or MCS policy :level. A file's is the extended attribute security.selinux.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from ropewalk.errors import Invalid

MOUNT = "/sys/fs/selinux"
DIRECTORY = "/etc/selinux"
DEFAULT_TYPE = "targeted"
ATTRIBUTE = "security.selinux"
# Relabelling one of these would break the node (the same that container-selinux' tools spare).
_SPARED = """
    / /bin /boot /dev /etc /etc/passwd /etc/pki /etc/shadow /home /lib /lib64 /media /opt /proc /root /run /sbin /srv
    /sys /tmp /usr /var /var/lib /var/log
"""
SPARED = frozenset(_SPARED.split())

_LINE = re.compile(r"""\s*(\w+)\s*=\s*"?([^"#\s]*)"?""")


class Contexts(NamedTuple):
    """The policy's for containers: of processes, and of files that they may write."""

    process: str
    file: str


def is_enabled() -> bool:
    return os.path.exists(f"{MOUNT}/enforce")


def read_contexts(directory: str = DIRECTORY) -> Contexts | None:
    """From contexts/lxc_contexts of the policy in use (container-selinux(8)); None if there is none."""
    policy = _values(f"{directory}/config").get("SELINUXTYPE", DEFAULT_TYPE)
    found = _values(f"{directory}/{policy}/contexts/lxc_contexts")
    process, file = found.get("process", ""), found.get("file", "")
    return Contexts(process, file) if process.count(":") >= 2 and file.count(":") >= 2 else None


def set_label(path: str, label: str) -> None:
    """Of a file, directory or link itself. Nothing where the file system has no labels, as NFS."""
    value = label.encode() + b"\0"
    try:
        if os.getxattr(path, ATTRIBUTE, follow_symlinks=False) == value:
            return
    except OSError:
        pass
    try:
        os.setxattr(path, ATTRIBUTE, value, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


def relabel(path: str, label: str) -> None:
    """A file, or a directory with all below it; what disappears meanwhile is no matter. Links are not followed, nor
    what is swapped for a link meanwhile: each directory is held open while its entries are labelled. Invalid for what
    is the node's own."""
    if os.path.realpath(path) in SPARED:
        raise Invalid(f"selinux_relabel of {path!r}", hint="it belongs to the node: mount a directory of your own")
    if os.path.isdir(path) and not os.path.islink(path):
        for _, directories, files, held in os.fwalk(path, follow_symlinks=False):
            for name in (*directories, *files):
                try:
                    set_label(f"/proc/self/fd/{held}/{name}", label)
                except FileNotFoundError:
                    continue
    set_label(path, label)  # last: one that has it was relabelled whole


def _values(path: str) -> dict[str, str]:
    """name = "value" lines; of a name the first."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [match for line in file if (match := _LINE.match(line))]
    except OSError:
        return {}
    return {match[1]: match[2] for match in reversed(found)}
