"""A crun with a WebAssembly engine: the next Debian suite's, with its own C library, beside the host's.

It is a dynamic program for a newer libc than Debian 12's, so interpreter and library path are set to what was unpacked
beside it (patchelf): it runs as any other program does, sealed in memory too. Some 40 MB are fetched once.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path

from tools import debian

SUITE = "trixie"
PACKAGES = ("crun", "libwasmedge0")
KEY = f"{SUITE}-1"
DIRECTORY = debian.CACHE / f"wasm-{KEY}"
PROGRAM = DIRECTORY / "usr/bin/crun"  # as soon as `ensure` was there


def found() -> Path | None:
    """The program; None, and why on standard error, where this machine cannot have it."""
    try:
        return ensure()
    except (RuntimeError, OSError) as error:
        print(f"no crun of {SUITE} with WebAssembly: {error}", file=sys.stderr)
        return None


def ensure() -> Path:
    """The program. RuntimeError if this machine's mirror does not have it."""
    machine = platform.machine()
    if machine != "x86_64":
        raise RuntimeError(f"the paths of libraries are known for x86_64, not for {machine}")

    def make(into: Path) -> None:
        with tempfile.TemporaryDirectory(dir=into) as place:
            for package in debian.download_newer(Path(place) / "newer", SUITE, *PACKAGES, whole=True).values():
                debian.unpack(package, into)
            debian.unpack(debian.download(Path(place) / "own", "patchelf")["patchelf"], Path(place) / "tools")
            libraries = [DIRECTORY / directory for directory in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
            debian.run(
                *(Path(place) / "tools/usr/bin/patchelf", "--set-interpreter", interpreter(into)),
                *("--force-rpath", "--set-rpath", ":".join(map(str, libraries)), into / "usr/bin/crun"),
            )

    debian.ensure_cached("wasm", KEY, make)
    return PROGRAM


def interpreter(root: Path) -> Path:
    """The C library's loader, unpacked below `root`, as it is called once that has become DIRECTORY."""
    loader = next(path for name in ("usr/lib64", "lib64") if (path := root / name / "ld-linux-x86-64.so.2").exists())
    return DIRECTORY / loader.relative_to(root)
