"""The pod's init: catatonit on a read-only root file system that holds nothing else, one per state directory. What runs
keeps the program that it began with; a pod that is made after an upgrade has the new one."""

from __future__ import annotations

import os
import shutil

from ropewalk.errors import Unsupported
from ropewalk.linux import paths, spawn

PROGRAM = "/catatonit"  # inside the root file system
DIRECTORIES = ("dev", "proc", "sys", "run")


def ensure_rootfs(state: str, program: str = "catatonit") -> str:
    """The directory; `program` is found in PATH. Unsupported if it is absent. (Debian's binary is static.)"""
    found = shutil.which(program, path=spawn.PATH)
    if found is None:
        raise Unsupported(
            f"no {program} on this node: a shared PID namespace needs it", hint="apt-get install catatonit"
        )
    root = os.path.join(state, "init-rootfs")
    target = root + PROGRAM
    with open(found, "rb") as file:
        installed = os.fstat(file.fileno())
        if not _is_copy(target, installed):
            for name in DIRECTORIES:
                os.makedirs(os.path.join(root, name), mode=0o755, exist_ok=True)
            paths.write_atomic(target, file.read(), 0o555)
            os.utime(target, ns=(installed.st_atime_ns, installed.st_mtime_ns))  # last: it says that this is a copy
    return root


def _is_copy(path: str, of: os.stat_result) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns) == (of.st_size, of.st_mtime_ns)
