"""containerd's shim for runc, for tests: the one that is installed, or Debian's, unpacked into the cache. containerd
itself is not installed: it would start a service."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tools import debian

NAME = "containerd-shim-runc-v2"
INSTALLED = "/usr/sbin:/usr/bin:/sbin:/bin"
UNPACKED = Path("usr/bin", NAME)


def find() -> Path | None:
    """The distribution's; None if `ensure` was never run."""
    installed = shutil.which(NAME, path=INSTALLED)
    if installed is not None:
        return Path(installed)
    return next((path / UNPACKED for path in sorted(debian.CACHE.glob("shims-*"))), None)


def newer() -> Path | None:
    """Another one that comes first in PATH, if there is."""
    found = shutil.which(NAME)
    return Path(found) if found is not None and Path(found) != find() else None


def ensure() -> Path:
    return find() or debian.ensure_cached("shims", "debian", _unpack) / UNPACKED


def _unpack(directory: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        debian.unpack(debian.download(Path(work), "containerd")["containerd"], directory)
