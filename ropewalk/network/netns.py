"""Network namespaces: each pinned under /run/netns, a few of them made before a pod asks (0.75 ms each).

A ready one has its loopback up, takes no router advertisements, and holds a netlink socket open that was made inside:
configuring the pod's interface then needs no thread that joins the namespace. Everybody may ping and bind low ports in
it, unless a pod's own sysctls say otherwise. Filling up waits for a quiet moment, so
that it takes nothing from pods that are being started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Collection

from ropewalk.errors import RopewalkError
from ropewalk.linux import namespaces, netlink, rtnetlink

log = logging.getLogger(__name__)

DIRECTORY = "/run/netns"
_QUIET = 0.1  # seconds without a pod taking one, before another is made
_RETRY = 30.0  # seconds after a failure; a pod that needs one meanwhile tries, and says what is wrong
_SYSCTLS = "/proc/sys/net/ipv6/conf"
_OPEN = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_LOOPBACK = 1  # the first link of every namespace (include/net/net_namespace.h, LOOPBACK_IFINDEX)


class Namespaces:
    """The network namespaces of one instance, at `directory`/`prefix`<12 hex digits>."""

    def __init__(self, directory: str, prefix: str, *, ready: int) -> None:
        self._directory = directory
        self._prefix = prefix
        self._wanted = ready
        self._pattern = re.compile(re.escape(prefix) + "[0-9a-f]{12}")
        self._sockets: dict[str, netlink.Socket] = {}  # every prepared one, by path
        self._free: list[str] = []
        self._taken = asyncio.Event()
        # Whether pods have IPv6; without, they have none at all (CVE-2024-32473). None: who makes the links decides.
        self.ipv6: bool | None = True

    def choose(self, *, ready: bool = True) -> str:
        """The path of a ready namespace, or of one still to be made; with `ready` False never of a ready one."""
        self._taken.set()
        if self._free and ready:
            return self._free.pop()
        return self._new_path()

    def enter(self, path: str) -> netlink.Socket:
        """A netlink socket inside the chosen namespace, which is made if it was neither ready nor there: somebody may
        have pinned it meanwhile. The caller closes it."""
        if path not in self._sockets:
            self._make(path)
        return self._sockets.pop(path)

    def remove(self, path: str) -> None:
        """Unpin; idempotent. The kernel destroys it in the background when nothing uses it any more."""
        sock = self._sockets.pop(path, None)
        if sock is not None:
            sock.close()
        namespaces.unpin(path)

    def keep(self, ready: int) -> None:
        """Another number of ready ones; those too many go at once."""
        self._wanted = ready
        while len(self._free) > ready:
            path = self._free.pop()
            try:
                self.remove(path)
            except OSError as error:  # the sweep of the next start removes it
                log.warning("a network namespace stays", extra={"path": path, "error": str(error)})
        self._taken.set()

    async def fill(self) -> None:
        """Keep ready ones; for as long as the daemon runs."""
        while True:
            self._taken.clear()
            if len(self._free) < self._wanted:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET):
                        await self._taken.wait()
                        continue
                if not self._fill_one():
                    await asyncio.sleep(_RETRY)
            else:
                await self._taken.wait()

    def _fill_one(self) -> bool:
        path = self._new_path()
        try:
            self._make(path)
        except (OSError, RopewalkError) as error:
            log.warning("cannot make a network namespace", extra={"path": path, "error": str(error)})
            return False
        self._free.append(path)
        return True

    def discard(self) -> None:
        """Remove the ready ones that no pod has taken; nothing stays open of the others."""
        for path in self._free:
            self.remove(path)
        self._free.clear()
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def sweep(self, owned: Collection[str]) -> list[str]:
        """Remove the pins of this instance that are neither in `owned` nor ready; their paths."""
        kept = {*owned, *self._free}
        swept = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._directory):
                if self._pattern.fullmatch(entry.name) and entry.path not in kept:
                    self.remove(entry.path)
                    swept.append(entry.path)
        return swept

    def of_others(self) -> list[str]:
        """Pins of other instances that are named as ours are but for the instance: their pods, or ready for them."""
        kind = self._prefix.removesuffix("-").rpartition("-")[2]
        theirs = re.compile(rf"(ropewalk(?:-[0-9a-f]{{4}})?-{re.escape(kind)}-)[0-9a-f]{{12}}")
        names = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        return sorted(name for name in names if (found := theirs.fullmatch(name)) and found[1] != self._prefix)

    def _new_path(self) -> str:
        return f"{self._directory}/{self._prefix}{os.urandom(6).hex()}"

    def _make(self, path: str) -> None:
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        values = {} if self.ipv6 is None else sysctls(ipv6=self.ipv6)

        def connect() -> None:
            self._sockets[path] = netlink.Socket()

        if namespaces.is_pinned(path):  # a pod's with users of its own, where the range of groups would be refused
            namespaces.write_sysctls({"net": path}, values)
            namespaces.inside({"net": path}, connect)
        else:
            namespaces.make(["net"], {"net": path}, sysctls=_OPEN | values, last=connect)
        try:
            self._sockets[path].apply([rtnetlink.link_up(_LOOPBACK)])
        except BaseException:
            self.remove(path)
            raise


def sysctls(*, ipv6: bool) -> dict[str, str]:
    """For a new namespace, before it has an interface. A pod's router is the node: an advertisement can only come
    from another pod (CVE-2020-10749). Empty on a node whose kernel has no IPv6."""
    if not os.path.isdir(_SYSCTLS):
        return {}
    if not ipv6:
        return {f"net.ipv6.conf.{which}.disable_ipv6": "1" for which in ("all", "default")}
    values = {f"net.ipv6.conf.{which}.accept_ra": "0" for which in ("all", "default")}
    return values | {"net.ipv6.conf.default.accept_dad": "0"}
