"""The daemon as its users start it, with places to hurt it: `python -m tests.node.kill.daemon DIRECTORY serve ...`.

The product knows nothing of this. DIRECTORY holds orders, read whenever a checkpoint is passed:

    armed     "<hits> <checkpoint> <action>": at that passage `kill` sends this process SIGKILL, `stop` sends SIGSTOP to
              the process that it has just started. The order is taken back first, so the next daemon lives.
    passed    every checkpoint that was passed, a line each (written here)
    boot-id   if there: what the kernel's boot id seems to be

Trials of handlers pass checkpoints, too: a node tries all at its first start, before a test begins.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ropewalk import steps
from ropewalk.linux import process


class Orders:
    """What the test wants to happen at checkpoints."""

    def __init__(self, directory: Path) -> None:
        self.armed = directory / "armed"
        self.passed = os.open(directory / "passed", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def checkpoint(self, name: str) -> None:
        os.write(self.passed, f"{name}\n".encode())
        try:
            hits, at, action = self.armed.read_text().rsplit("\n", 1)[0].split("\t")
        except (FileNotFoundError, ValueError):  # not written to its end yet
            return
        if at != name:
            return
        if int(hits) > 1:
            self.armed.write_text(f"{int(hits) - 1}\t{at}\t{action}\n")
            return
        self.armed.unlink()
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(youngest_child(), signal.SIGSTOP)


def youngest_child() -> int:
    """The monitor, at the checkpoints of its start."""
    return max(process.children(os.getpid()), key=lambda pid: (process.start_time(pid) or 0, pid))


def main() -> None:
    directory = Path(sys.argv[1])
    steps.checkpoint = Orders(directory).checkpoint
    boot = directory / "boot-id"
    if boot.exists():
        process.boot_id = lambda: boot.read_text().strip()
    sys.argv = ["ropewalk", *sys.argv[2:]]
    from ropewalk.__main__ import main as command

    command()


if __name__ == "__main__":
    main()
