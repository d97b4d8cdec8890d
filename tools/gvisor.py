"""The runsc of the next Debian suite: a static program with the systrap platform, beside the host's own from 2022."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tools import debian

SUITE = "trixie"


def found() -> str:
    """The program's path; "runsc-newer", which nothing in PATH is called, where this machine cannot have it."""
    try:
        return str(ensure())
    except RuntimeError as error:
        print(f"no runsc of {SUITE}: {error}", file=sys.stderr)
        return "runsc-newer"


def ensure() -> Path:
    """The program. RuntimeError if this machine's mirror does not have it."""

    def make(into: Path) -> None:
        with tempfile.TemporaryDirectory(dir=into) as place:
            found = debian.download_newer(Path(place), SUITE, "runsc")
            debian.unpack(found["runsc"], Path(place) / "root")
            shutil.move(Path(place) / "root/usr/bin/runsc", into / "runsc")

    return debian.ensure_cached("runsc", SUITE, make) / "runsc"
