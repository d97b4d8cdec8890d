"""What CNI plugins were told and what they answered, kept for as long as a pod has its network.

One file per attachment, written before the first plugin runs and again with the result: DEL then needs neither the
configuration as it is now nor the daemon that ran ADD. They outlive a boot, as addresses that plugins reserved do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, field

from ropewalk.linux import paths
from ropewalk.network import conflist

log = logging.getLogger(__name__)

_FILE = re.compile(r"([0-9a-f]{64})-([^/]+)\.json")
_LIBCNI = "/var/lib/cni/results"  # libcni's DefaultCacheDir: containerd, CRI-O


class Entry(Struct, frozen=True, omit_defaults=True):
    """An attachment. `result`: None until every plugin's ADD is done."""

    container_id: str
    interface: str
    netns: str
    network: conflist.Network
    arguments: str = ""  # CNI_ARGS
    capabilities: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None

    @property
    def previous(self) -> bytes:
        return b"" if self.result is None else msgspec.json.encode(self.result)


class Cache:
    """The files in a directory, which is made when it is needed."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def write(self, entry: Entry) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        paths.write_atomic(self.path(entry.container_id, entry.interface), msgspec.json.encode(entry), 0o600)

    def read(self, container_id: str, interface: str) -> Entry | None:
        """None if nothing was begun; also for a file that somebody damaged, which is logged."""
        path = self.path(container_id, interface)
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Entry)
        except FileNotFoundError:
            return None
        except conflist.UNREADABLE as error:
            log.warning("cannot read what CNI plugins were told", extra={"path": path, "error": str(error)})
            return None

    def remove(self, container_id: str, interface: str) -> None:
        """Absent is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(container_id, interface))

    def list(self) -> Iterator[Entry]:
        """Every attachment of this instance whose file can be read; the others are logged."""
        for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
            match = _FILE.fullmatch(name)
            try:
                entry = self.read(match[1], match[2]) if match else None
            except OSError as error:
                log.warning("cannot read what CNI plugins were told", extra={"path": name, "error": str(error)})
                continue
            if entry is not None:
                yield entry

    def sweep(self) -> None:
        """Remove what a kill left half-written; nothing is being written between two awaits."""
        for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
            if name.endswith(".tmp"):
                os.unlink(os.path.join(self._directory, name))

    def read_pod_cidr(self) -> str:
        """What the kubelet said last; it does not say it again when only this daemon restarts."""
        with contextlib.suppress(FileNotFoundError), open(f"{self._directory}/pod-cidr", encoding="ascii") as file:
            return file.read()
        return ""

    def write_pod_cidr(self, cidr: str) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        paths.write_atomic(f"{self._directory}/pod-cidr", cidr.encode(), 0o600)

    def path(self, container_id: str, interface: str) -> str:
        return f"{self._directory}/{container_id}-{interface}.json"


class _Foreign(Struct, rename="camel"):
    """A file of libcni's cache (libcni/api.go, cachedInfo)."""

    container_id: str
    if_name: str
    network_name: str


def foreign(network: str, directory: str = _LIBCNI) -> list[dict[str, str]]:
    """Attachments to `network` that runtimes beside us made through libcni: not ours to collect."""
    found = []
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        with contextlib.suppress(OSError, *conflist.UNREADABLE):
            with open(os.path.join(directory, name), "rb") as file:
                entry = msgspec.json.decode(file.read(conflist.MAX_BYTES), type=_Foreign)
            if entry.network_name == network:
                found.append({"containerID": entry.container_id, "ifname": entry.if_name})
    return found
