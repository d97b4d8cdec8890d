"""A part of the ordinary test suites, in a lab VM of their own: on cgroup v2, as a machine with systemd runs them.

Not all: in there the whole takes an hour. What is the same on every machine is left out (tests/unit, images, storage,
the network), and so is what tests/vm says of an installed daemon.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from tools.lab import frames, image, machine

HANDLERS = "(crun or runc) and not conmon"
KILLS = "test_update or (test_remove and False) or (test_create and (network or (shared and task)))"
SLOWER = 10  # than this machine: how much longer a test, and each wait in it, may take
LIMIT = 900.0  # seconds for one suite
SUITES = {
    # Every handler, by the systemd driver; the cgroups and user namespaces of this kernel.
    "contract": (
        "tests/contract/test_handler.py",
        "tests/contract/test_handler_exec.py",
        "-k",
        HANDLERS,
        "--dist=load",
    ),
    "kernel": ("tests/node/linux/test_cgroup.py", "tests/node/linux/test_userns.py", "--dist=load"),
    # The daemon killed at each step of making and removing a scope.
    "kill": ("tests/node/kill/test_walk_containers.py", "-k", KILLS, "--dist=load"),
}


def note(said: list[bytes], kind: frames.Kind, data: bytes) -> None:
    """What a command wrote, to either stream."""
    said.append(data)


def run(reports: Path) -> list[Path]:
    """Every suite, its output shown when it is over: JUnit reports, one a suite that came to its end."""
    written = []
    with machine.Machine(images=True) as vm:
        vm.put_tree()
        environment = {"PATH": f"{image.DEV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for name, arguments in SUITES.items():
            said = [f"== {name} tests in the lab VM\n".encode()]
            report = f"/tmp/{name}.xml"
            options = ("-n", str(machine.PROCESSORS), f"--timeout={60 * SLOWER}", f"--junit-xml={report}")
            vm.run(
                f"{image.DEV}/bin/python", "-m", "pytest", "-v", *options, *arguments,
                env={**environment, "DEV_SLOWER": str(SLOWER)}, cwd=image.TREE, timeout=LIMIT, check=False,
                output=partial(note, said),
            )  # fmt: skip
            sys.stdout.buffer.write(b"".join(said))
            sys.stdout.flush()
            if vm.run("test", "-e", report, check=False).code == 0:
                (reports / f"{name}.xml").write_text(vm.read(report))
                written.append(reports / f"{name}.xml")
    return written
