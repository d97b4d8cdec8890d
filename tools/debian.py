"""Programs and files out of Debian packages, unpacked into a cache: to install them would start services.

The cache is $XDG_CACHE_HOME/ropewalk-dev, or /var/cache/ropewalk-dev; removing it costs half a minute at the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "ropewalk-dev"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
STALE = 7 * 86400  # seconds after which what another version of the tools left in the cache is removed


def ensure_cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """CACHE/<kind>-<key>, filled by `make(empty directory)` if it is not there: whole or not at all."""
    target = CACHE / f"{kind}-{key}"
    if target.exists():
        os.utime(target)
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob(f"{kind}-*"):
        if time.time() - old.stat().st_mtime > STALE:
            shutil.rmtree(old, ignore_errors=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=CACHE))
    try:
        making.chmod(0o755)
        make(making)
        try:
            making.rename(target)
        except OSError:
            if not target.exists():  # else another run was quicker
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def run(*command: str | Path) -> str:
    """Standard output of a program that must succeed; its complaint is in the error otherwise."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def download(into: Path, *packages: str) -> dict[str, Path]:
    """Package name → .deb, of `packages` and all they depend on, as on a machine that has no package yet."""
    (into / "partial").mkdir(parents=True, exist_ok=True)
    status = into / "status"
    status.touch()
    options = ("-q", "-y", "-o", "APT::Sandbox::User=root", "-o", f"Dir::State::status={status}")
    command = ("apt-get", *options, "-o", f"Dir::Cache::archives={into}", "--no-install-recommends", "--download-only")
    try:
        run(*command, "install", *packages)
    except RuntimeError:  # no package lists, or lists that name files the mirror no longer has
        run("apt-get", "-q", "update")
        run(*command, "install", *packages)
    return {path.name.partition("_")[0]: path for path in into.glob("*.deb")}


def download_newer(into: Path, suite: str, *packages: str, whole: bool = False) -> dict[str, Path]:
    """Likewise `packages` of another suite, from the mirror that this machine uses; `whole`: with all that they depend
    on. RuntimeError if it has no mirror, or that does not serve the suite."""
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Origin: Debian")
    mirrors = [uri for uri, release in map(str.split, listed.splitlines()) if release.isalpha()]
    if not mirrors:
        raise RuntimeError("apt has no lists of a Debian suite: run apt-get update")
    for name in ("lists/partial", "archives/partial"):
        (into / name).mkdir(parents=True)
    sources, status = into / "sources.list", into / "status"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirrors[0]} {suite} main\n")
    status.touch()
    settings = {
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::State::status": status,
        "Dir::State::lists": into / "lists",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::Cache::archives": into / "archives",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    command = ["apt-get", "-q", "-y", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
    run(*command, "update")
    if whole:
        run(*command, "--no-install-recommends", "--download-only", "install", *packages)
        return {path.name.partition("_")[0]: path for path in (into / "archives").glob("*.deb")}
    for package in packages:
        done = subprocess.run([*command, "download", package], cwd=into, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{package} of {suite}: {done.stderr.strip()[-500:]}")
    return {path.name.partition("_")[0]: path for path in into.glob("*.deb")}


def unpack(package: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    run("dpkg-deb", "--extract", package, into)
