"""What other users of the node, and containers, can reach of a daemon: nothing of its files, and no socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import images, workload
from tools import node as nodes

NOBODY = 65534
SETUID = "cp /bin/busybox /su && chmod 4755 /su && echo secret > /dev/shm/secret && echo made && sleep 1000"
# Tries every path of stdin and prints, by path, what it could do there.
TRY = """
import json, os, sys
could = {}
for path in json.load(sys.stdin):
    done = []
    for name, act in (("list", os.listdir), ("stat", os.stat),
                      ("read", lambda p: os.close(os.open(p, os.O_RDONLY | os.O_NONBLOCK))),
                      ("write", lambda p: os.close(os.open(p, os.O_WRONLY | os.O_NONBLOCK))),
                      ("make", lambda p: os.close(os.open(p + "/made", os.O_WRONLY | os.O_CREAT)))):
        try:
            act(path)
        except OSError:
            continue
        done.append(name)
    could[path] = done
json.dump(could, sys.stdout)
"""


@pytest.fixture
async def running(node: nodes.Node, client: cri.Client, run_pod: PodRunner) -> workload.Pod:
    """A pod whose container has made a setuid program of its root file system's."""
    await client.pull(ImageSpec(image=images.BUSYBOX))
    pod = await run_pod()
    await pod.start("main", "sh", "-c", SETUID)
    await pod.says("made")
    node.base.chmod(0o755)  # as /run and /var/lib are
    return pod


def walk(*roots: Path) -> Iterator[str]:
    """Every path that root sees."""
    for root in roots:
        yield str(root)
        for directory, below, files in os.walk(root):
            yield from (os.path.join(directory, name) for name in (*below, *files))


def could(paths: list[str]) -> dict[str, set[str]]:
    """What a user without any rights can do with each path whose name it somehow knows."""
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", TRY]
    done = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, check=True, user=NOBODY, group=NOBODY,
        extra_groups=[], cwd="/",
    )  # fmt: skip
    return {path: set(what) for path, what in json.loads(done.stdout).items()}


async def test_another_user_reaches_nothing(node: nodes.Node, running: workload.Pod) -> None:
    """T26: no row, blob, layer, spec, log, pod file, /dev/shm, terminal or setuid program of an image."""
    paths = list(walk(node.root, node.state))
    rootfs = str(node.state / f"containers/{running.containers['main']}/rootfs")
    shm = str(node.state / f"pods/{running.id}/shm")
    assert os.stat(f"{rootfs}/su").st_mode & stat.S_ISUID
    assert {f"{rootfs}/su", f"{shm}/secret", str(node.root / "state.db")} <= set(paths)
    public = str(node.state / "init-rootfs")  # catatonit and empty directories
    found = {path: what for path, what in could(paths).items() if not path.startswith(public)}
    assert {path: what - {"stat"} for path, what in found.items() if what - {"stat"}} == {}
    reached = {path for path, what in found.items() if what}
    assert {path for path in reached if path.startswith(str(node.root))} == {str(node.root)}, "which nobody can enter"
    assert {path for path in reached if path.startswith((rootfs, shm))} == set()


async def test_modes_are_as_narrow_as_they_are_said_to_be(node: nodes.Node, running: workload.Pod) -> None:
    """T26: directories 0700, or 0711 where something passes through; files 0600 (a runtime may add x for itself)."""
    inside = re.compile(  # what images, containers and pods see, with the modes that it has for them
        rf"{node.state}/(init-rootfs|containers/\w+/rootfs|pods/\w+/)|{node.root}/snapshots/\w+/(trash/)?[\w-]+/fs"
    )
    wide = {}
    for path in walk(node.root, node.state):
        if inside.match(path):
            continue
        status = os.lstat(path)
        most = 0o711 if stat.S_ISDIR(status.st_mode) else 0o700
        if path.endswith(("/oci.log", "/ctl", "/winsz", "/pid")):
            most = 0o744  # of a runtime's or conmon's making, in a directory of 0700
        elif path.endswith((".state", ".lock")):
            most = 0o640  # runsc's own; the group is root's
        if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) & ~most:
            wide[path] = oct(stat.S_IMODE(status.st_mode))
        assert status.st_uid == status.st_gid == 0, path
    assert wide == {}
    owned = [*node.state.glob("containers/*"), *node.state.glob("pods/*")]
    assert {stat.S_IMODE(place.stat().st_mode) for place in owned} == {0o700}


def sockets(pid: int) -> set[str]:
    """Inodes of a process's sockets; none of one that has ended meanwhile."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def processes(node: nodes.Node) -> list[int]:
    """The daemon, what it started and lives on its own, and the monitors."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (
                str(node.base).encode() in (entry / "cmdline").read_bytes()
                or f"PPid:\t{node.pid}\n" in (entry / "status").read_text()
            ):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def test_no_socket_can_be_reached_without_its_file(node: nodes.Node, running: workload.Pod) -> None:
    """T12 (CVE-2020-15257): no abstract socket, and no port, of the daemon, its workers or the monitors."""
    pids = processes(node)
    assert node.pid in pids
    assert len(pids) >= 2, "a monitor, too"
    own = set().union(*map(sockets, pids))
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = {line[7] for line in unix if line[6] in own and len(line) > 7}
    assert node.address in named
    assert {name for name in named if name.startswith("@")} == set()  # the others are files; a monitor's are relative
    for family in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        lines = [line.split() for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]]
        assert {line[1] for line in lines if line[9] in own} == set(), family


async def test_a_container_on_the_nodes_network_has_no_way_to_the_socket(node: nodes.Node, run_pod: PodRunner) -> None:
    """T12: it shares the network, where abstract sockets would be, but not the file system."""
    assert stat.S_IMODE(os.stat(node.address).st_mode) == 0o660
    pod = await run_pod(host_network=True)
    await pod.start(
        "main", "sh", "-c", f"ls {node.address} {node.state}; grep -c '@.*ropewalk' /proc/net/unix; echo end"
    )
    said = await pod.says("end")
    assert said.count("No such file or directory") == 2
    assert said.splitlines()[-2:] == ["0", "end"]
