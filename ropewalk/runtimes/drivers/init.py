"""The pod's init: catatonit on a read-only root file system that holds nothing else, made once per state directory."""

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
    if not os.path.exists(target):
        for name in DIRECTORIES:
            os.makedirs(os.path.join(root, name), mode=0o755, exist_ok=True)
        with open(found, "rb") as file:
            paths.write_atomic(target, file.read(), 0o555)
    return root
