"""What Ropewalk leaves on a machine, as the kernel tells it: a set of lines that can be compared before and after.

One line is one thing: `mount /run/…`, `netns ropewalk-…`, `link rw0000…`, `table inet ropewalk`, `cgroup /sys/fs/…`,
`process 123 conmon …`, `path /var/tmp/ropewalk-…`. Nothing here asks Ropewalk.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
PROGRAMS = ("ropewalk-monitor"[:15], "conmon", "crun", "runc", "catatonit", "containerd-shim")  # as comm has them
RUN = "DEV_RUN"  # environment: what tells one test run's things from those of another on this machine
LINK = re.compile(r"ropewalk|rw[0-9a-f]{12}$")  # bridges, and host sides of pods' links: rw + tag + 8 hex digits
DIRECTORIES = (Path("/run"), Path("/var/lib"), Path("/var/tmp"))


def _json(*command: str) -> list[dict[str, Any]]:
    done = subprocess.run(command, capture_output=True, check=True)
    found: Any = json.loads(done.stdout or b"[]")
    if isinstance(found, dict):
        found = found["nftables"]
    return [entry for entry in found if isinstance(entry, dict)]


def mounts() -> set[str]:
    """proc_pid_mountinfo(5): the fifth field is the mount point."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {f"mount {point}" for point in points if "ropewalk" in point}


def namespaces() -> set[str]:
    pins = Path("/run/netns")
    return {f"netns {pin.name}" for pin in pins.iterdir() if "ropewalk" in pin.name} if pins.is_dir() else set()


def links() -> set[str]:
    return {f"link {link['ifname']}" for link in _json("ip", "-j", "link", "show") if LINK.match(link["ifname"])}


def tables() -> set[str]:
    found = (entry["table"] for entry in _json("nft", "-j", "list", "tables") if "table" in entry)
    return {f"table {table['family']} {table['name']}" for table in found if "ropewalk" in table["name"]}


def cgroups() -> set[str]:
    """Those at the top of each hierarchy, on cgroup v1, hybrid and v2."""
    hierarchies = [CGROUPS, *(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())]
    return {f"cgroup {path}" for hierarchy in hierarchies for path in hierarchy.glob("ropewalk*") if path.is_dir()}


def process_line(pid: Path) -> str:
    """`process PID command line [cgroup]` if it is ours: the daemon, a worker, what a pod needs, anything in a pod."""
    try:
        command = (pid / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        name, groups = (pid / "comm").read_text().strip(), (pid / "cgroup").read_text()
    except OSError:  # it ended meanwhile
        return ""
    daemon = re.search(r"-m ropewalk\b|bin/ropewalk\b.* serve\b", command)
    group = next((line.split(":", 2)[2] for line in groups.splitlines() if "/ropewalk" in line), "")
    ours = daemon or name in PROGRAMS or group
    return f"process {pid.name} {command[:300] or name} [{group}]" if ours else ""


def processes() -> set[str]:
    return {line for pid in Path("/proc").glob("[0-9]*") if (line := process_line(pid))}


def paths() -> set[str]:
    return {f"path {path}" for directory in DIRECTORIES for path in directory.glob("ropewalk*")}


def own_names() -> str:
    """How the names begin that a process of a test run gives to what belongs to no node."""
    return f"{run_names()}{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-"


def run_names() -> str:
    """Likewise of all processes of this run."""
    return f"ropewalk-test-{os.environ.setdefault(RUN, str(os.getpid()))}-"


def snapshot(*marks: str) -> set[str]:
    """Everything of Ropewalk's on this machine, or only the lines that contain one of `marks`."""
    lines = mounts() | namespaces() | links() | tables() | cgroups() | processes() | paths()
    return {line for line in lines if not marks or any(mark in line for mark in marks)}


def added(before: set[str], *marks: str, patience: float = 30.0) -> list[str]:
    """What is there now and was not before; what is going away anyway (background tear-down) has `patience` seconds."""
    deadline = time.monotonic() + patience
    while (left := sorted(snapshot(*marks) - before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def open_files(pid: int) -> int:
    """How many file descriptors a process holds."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
