"""What the kernel has of one private node, as a set of lines: nothing here asks Ropewalk.

Finer than tools/trace.py, which looks at nodes as a whole: each pod's and container's mounts, namespaces, links, packet
filter elements, control groups, processes, and the names of files. Lines are equal as long as the thing is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ropewalk.linux import process
from tools import node as nodes
from tools import trace, workload

STATE = ("pods", "containers", "runtimes/crun", "runtimes/runc", "runtimes/k8s.io", "exits", "consoles")
DIRECTORIES = (*(f"state/{name}" for name in STATE), "root/tmp")


def lines(node: nodes.Node) -> set[str]:
    """Everything of the node's, apart from its daemon and the daemon's workers."""
    return {
        *mounts(node),
        *namespaces(node),
        *links(node),
        *filters(node),
        *cgroups(node),
        *processes(node),
        *files(node),
    }


def mounts(node: nodes.Node) -> Iterator[str]:
    for line in trace.mounts():
        if str(node.base) in line or node.instance in line:
            yield line


def namespaces(node: nodes.Node) -> Iterator[str]:
    yield from (line for line in trace.namespaces() if node.instance in line)


def links(node: nodes.Node) -> Iterator[str]:
    yield from (line for line in trace.links() if f"rw{node.tag}" in line or node.instance in line)


def filters(node: nodes.Node) -> Iterator[str]:
    """Elements of the maps in the node's table: a host port each."""
    done = subprocess.run(["nft", "-j", "list", "table", "inet", node.instance], capture_output=True, check=False)
    for entry in json.loads(done.stdout or b'{"nftables": []}')["nftables"]:
        for element in entry.get("map", {}).get("elem", []):
            yield f"host port {json.dumps(element)}"


def cgroups(node: nodes.Node) -> Iterator[str]:
    hierarchies = [
        trace.CGROUPS,
        *(path for path in trace.CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()),
    ]
    for hierarchy in hierarchies:
        for top in (hierarchy / node.instance, hierarchy / f"{node.instance.replace('-', '_')}.slice"):
            yield from (f"cgroup {path}" for path in below(top, "*") if path.is_dir())
            yield from (f"cgroup {path}" for path in below(top, "*/*") if path.is_dir())


def processes(node: nodes.Node) -> Iterator[str]:
    """Those whose arguments or control group name the node. The daemon and its workers are no part; what has ended and
    waits for somebody to read its status holds nothing."""
    daemon = node.process.pid if node.process is not None else 0
    marks = (str(node.base).encode(), node.instance.encode(), node.instance.replace("-", "_").encode())
    for pid in process.pids():
        if pid == daemon or not any(mark in text for text in texts(pid) for mark in marks):
            continue
        stat, argv = process.stat(pid), process.command_line(pid)
        if stat is None or stat.state == "Z" or (stat.parent == daemon and argv and b"python" in argv[0]):
            continue
        yield f"process {pid} since {stat.start}"


def texts(pid: int) -> Iterator[bytes]:
    for name in ("cmdline", "cgroup"):
        try:
            yield Path(f"/proc/{pid}/{name}").read_bytes()
        except OSError:  # it has ended
            return


def files(node: nodes.Node) -> Iterator[str]:
    for directory in DIRECTORIES:
        place = node.base / directory
        if place.is_dir():
            yield from (f"file {path}" for path in place.iterdir() if path.name != ".cache")
    yield from (f"file {path}" for path in below(node.base / "state/pods", "*/**/*"))
    snapshots = node.base / "root/snapshots"
    yield from (f"file {path}" for path in below(snapshots, "*/*") if path.name != "trash")
    yield from (f"file {path}" for path in below(snapshots, "*/trash/*"))


def below(directory: Path, pattern: str) -> list[Path]:
    """Path.glob, which fails where a directory vanishes while it looks."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return list(directory.glob(pattern))


def missing_and_added(before: set[str], after: set[str]) -> list[str]:
    """What was being freed before is not missed."""
    before = {line for line in before if "/trash/" not in line}
    return sorted(f"- {line}" for line in before - after) + sorted(f"+ {line}{said(line)}" for line in after - before)


def said(line: str) -> str:
    """What a process is; its arguments change with each exec."""
    if not line.startswith("process "):
        return ""
    return b" ".join([b":", *process.command_line(pid_in(line))]).decode(errors="replace")[:250]


def is_monitor(argv: list[bytes]) -> bool:
    return bool(argv) and os.path.basename(argv[0]) in (b"ropewalk-monitor", b"conmon")


def pid_in(line: str) -> int:
    return int(line.split()[1])


def until(difference: Callable[[], list[str]], *, patience: float = 30.0) -> None:
    """Wait until there is no difference. AssertionError with what stays."""
    deadline = time.monotonic() + patience * workload.SLOWER
    while left := difference():
        assert time.monotonic() < deadline, "the kernel is not as before:\n" + "\n".join(left)
        time.sleep(0.02)
