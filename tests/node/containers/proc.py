"""What the kernel says of a container's processes: /proc/PID and control group files."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from ropewalk.client import cri
from ropewalk.linux import cgroup, process


async def pid_of(client: cri.Client, id: str) -> int:
    """The container's first process, as the node numbers it."""
    _, info = await client.inspect(id, verbose=True)
    pid = json.loads(info["info"])["pid"]
    assert isinstance(pid, int)
    assert pid > 0
    return pid


async def begun(pid: int, *argv: str) -> int:
    """The process, once it runs `argv`: StartContainer returns before it has come to its exec."""
    async with asyncio.timeout(20):
        while process.command_line(pid) != [word.encode() for word in argv]:
            await asyncio.sleep(0.005)
    return pid


def status(pid: int) -> dict[str, str]:
    """proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int | str, kind: str) -> str:
    """ "net:[4026531840]"; equal for processes in the same one."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def cgroup_of(pid: int) -> str:
    """Its path, relative to the hierarchy's root, in the memory controller's (v1) or the only one (v2)."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            found = path
            if controllers:
                break
    return found


def members(path: str) -> list[int]:
    """Processes in a control group or below."""
    return cgroup.detect().processes(path)
