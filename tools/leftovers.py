"""Removes what a node left behind, by the names that `trace` lists: the end of a failed test, not a way to clean up.

Works on the kernel's objects alone; processes are ended by their pid after a look at what they are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from tools import trace


def remove(marks: tuple[str, ...]) -> None:
    """Everything whose trace line contains one of `marks` (never empty): processes first, then what they held."""
    assert marks
    assert all(marks)
    for _ in range(3):
        lines = sorted(trace.snapshot(*marks), reverse=True)  # deeper mounts and cgroups before those above
        for kind in ("process", "mount", "netns", "link", "table", "cgroup"):
            for line in lines:
                name, _, rest = line.partition(" ")
                if name == kind:
                    with contextlib.suppress(OSError):
                        _remove(kind, rest)
        if not any(line.split(" ", 1)[0] in ("process", "cgroup") for line in trace.snapshot(*marks)):
            return
        time.sleep(0.2)


def _remove(kind: str, name: str) -> None:
    match kind:
        case "process":
            os.kill(int(name.split()[0]), signal.SIGKILL)
        case "mount":
            _quietly("umount", "-l", name)
        case "netns":
            _quietly("umount", "-l", f"/run/netns/{name}")
            Path("/run/netns", name).unlink(missing_ok=True)
        case "link":
            _quietly("ip", "link", "delete", name)
        case "table":
            _quietly("nft", "delete", "table", *name.split())
        case "cgroup":
            for directory in sorted(Path(name).rglob("*"), reverse=True):
                if directory.is_dir():
                    with contextlib.suppress(OSError):
                        directory.rmdir()
            Path(name).rmdir()


def _quietly(*command: str) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
