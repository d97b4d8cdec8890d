"""BusyBox as critest needs it, built once from the source package of this Debian release.

Debian's own program has no ipcs and pgrep, and its shell runs `ls` itself where a masked /bin/ls must be in the way
(FEATURE_SH_STANDALONE). The upstream default configuration has neither fault; it only has to be static.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

from tools import debian, images

APT = Path("/etc/apt")
# `tc` does not compile against the headers of newer kernels.
CHANGES = {r"# CONFIG_STATIC is not set": "CONFIG_STATIC=y", r"CONFIG_TC=y": "# CONFIG_TC is not set"}


def source_lists(into: Path) -> None:
    """The machine's package sources as sources of source packages, in a directory of our own."""
    into.mkdir(parents=True)
    for path in [APT / "sources.list", *APT.glob("sources.list.d/*.list"), *APT.glob("sources.list.d/*.sources")]:
        if path.exists():
            text = re.sub(r"^deb(?=\s)", "deb-src", path.read_text(), flags=re.MULTILINE)
            text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
            (into / path.name).write_text(text)


def fetch_source(into: Path) -> Path:
    """BusyBox's source tree with Debian's patches; apt's state stays below `into`, signatures are checked as always."""
    source_lists(into / "sources")
    (into / "lists/partial").mkdir(parents=True)
    places = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": into / "sources",
        "Dir::State::lists": into / "lists",
        "Dir::Cache": into / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [part for key, value in places.items() for part in ("-o", f"{key}={value}")]
    debian.run("apt-get", "-q", *options, "update")
    done = subprocess.run(
        ["apt-get", "-q", *options, "source", "busybox"], cwd=into, capture_output=True, text=True, check=False
    )
    found = [path for path in into.glob("busybox-*") if path.is_dir()]
    if done.returncode != 0 or not found:
        raise RuntimeError(f"apt-get source busybox: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return found[0]


def build(directory: Path) -> None:
    """Fill a cache directory: `busybox`, a static program."""
    work = directory / "work"
    tree = fetch_source(work)
    debian.run("make", "-C", tree, "defconfig")
    text = (tree / ".config").read_text()
    for old, new in CHANGES.items():
        text = re.sub(f"^{old}$", new, text, flags=re.MULTILINE)
    (tree / ".config").write_text(text)
    debian.run("nice", "make", "-C", tree, f"-j{os.cpu_count() or 1}", "busybox")
    (tree / "busybox").rename(directory / "busybox")
    debian.run("rm", "-rf", work)


@cache
def ensure() -> Path:
    """The program, built now if the cache does not have it."""
    key = images.cache_key(debian.__file__, __file__)
    if not (debian.CACHE / f"busybox-{key}").exists():
        print("building BusyBox from its Debian source package (once, two minutes) ...", flush=True)
    return debian.ensure_cached("busybox", key, build) / "busybox"
