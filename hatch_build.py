"""hatch's build hook: Python code for the messages in proto/, made with every wheel, sdist and editable install;
ropewalk-monitor, compiled for every wheel and editable install; and manual pages and shell completions, which every
wheel brings below share/.

Run as a program it makes code and monitor in the tree. No *_pb2_grpc modules: ropewalk/wire/grpc.py builds its
handlers and stubs from the service descriptors.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = "ropewalk/wire/pb"
SHARE = "build/share"
SOURCE = "csrc/monitor.c"
MONITOR = "ropewalk/runtimes/monitors/ropewalk-monitor"
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra")  # errors in the tests only: a later compiler finds more of them
HARDENED = (
    "-O2",
    "-fPIE",
    "-static-pie",
    "-fstack-protector-strong",
    "-U_FORTIFY_SOURCE",  # which some compilers define by themselves
    "-D_FORTIFY_SOURCE=2",
    "-Wl,-z,relro,-z,now",
    "-s",
)


def generate(root: Path) -> None:
    """proto/*.proto under `root` → ropewalk/wire/pb/*_pb2.py and .pyi. The first --proto_path gives the files the name
    under which they are imported."""
    from grpc_tools import protoc  # a build requirement; not there when hatch only reads this file

    sources = [f"{PACKAGE}/{path.name}" for path in sorted((root / "proto").glob("*.proto"))]
    arguments = [f"--proto_path={PACKAGE}={root / 'proto'}", f"--python_out={root}", f"--pyi_out={root}"]
    if protoc.main(["protoc", *arguments, *sources]) != 0:
        raise SystemExit(f"protoc refused {', '.join(sources)}")


def compile_monitor(root: Path) -> None:
    """csrc/monitor.c under `root` → MONITOR, unless it was made of the same source before. Static, so that one wheel
    serves every distribution. The compiler is $CC, with $CFLAGS behind our own."""
    program, stamp = root / MONITOR, root / "build/monitor.stamp"
    compiler, more = shlex.split(os.environ.get("CC", "cc")), shlex.split(os.environ.get("CFLAGS", ""))
    version = runpy.run_path(str(root / "ropewalk/version.py"))["VERSION"]
    command = [*compiler, *WARNINGS, *hardened(more), f'-DVERSION="{version}"', *more]
    made_of = hashlib.sha256((root / SOURCE).read_bytes() + "\0".join(command).encode()).hexdigest()
    if program.exists() and stamp.exists() and stamp.read_text() == made_of:
        return
    fresh = program.with_name(f"{program.name}.{os.getpid()}")
    try:
        subprocess.run([*command, "-o", str(fresh), str(root / SOURCE)], check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{SOURCE}: {error}; it needs a C compiler and a static libc (gcc, libc6-dev)") from error
    fresh.rename(program)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(made_of)


def hardened(more: Iterable[str]) -> list[str]:
    """HARDENED without what `more` decides itself, as distributions' builds do: a macro that is defined twice is a
    warning."""
    fortified = any("_FORTIFY_SOURCE" in option for option in more)
    return [option for option in HARDENED if not (fortified and "_FORTIFY_SOURCE" in option)]


def document(root: Path) -> None:
    """Manual pages and completions of the code in `root` → SHARE. In a process of its own: it imports that code."""
    subprocess.run([sys.executable, "-m", "tools.docs", SHARE], cwd=root, check=True)


if __name__ == "__main__":
    generate(Path(__file__).parent)
    compile_monitor(Path(__file__).parent)
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class GenerateMessages(BuildHookInterface[Any]):
        """hatch calls `initialize` before it collects files."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            generate(Path(self.root))
            if self.target_name == "wheel":
                compile_monitor(Path(self.root))
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            if self.target_name == "wheel" and version != "editable":
                document(Path(self.root))
                build_data["shared_data"][SHARE] = "share"
