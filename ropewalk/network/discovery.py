"""The pod network as its administrator or an installer configured it: found, watched, and asked how it is.

The directory of configurations is looked at again whenever it changes; the first usable file by name is the network.
What no watch sees (the file that a link leads to, the plugins, another directory under the same name) is compared by
size and time every ten seconds.
A file that is skipped is said once, until it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import inotify
from ropewalk.network import conflist, plugins

log = logging.getLogger(__name__)

_RETRY = 2.0  # between looks without a usable network: plugins may be installed after their configuration
_STATUS = 10.0  # and with one: no watch sees what a link leads to, a plugin that goes, a directory that is renamed
_QUIET, _RESTLESS = 0.1, 1.0  # a directory that changes is read when it rested this long, at the latest after that
_HINT = 'a CNI installer puts one there; a single node may set network.mode = "bridge"'

_Signature = tuple[str, int, int, int]


class Discovery:
    """`network`: the one for new pods, None while there is none; `problem`: what keeps it from taking pods, or "";
    `looked`: set after the first look."""

    def __init__(self, directory: str, programs: plugins.Plugins) -> None:
        self.network: conflist.Network | None = None
        self.problem = "nobody has looked for a configuration yet"
        self.looked = asyncio.Event()
        self._directory = directory
        self._plugins = programs
        self._skipped: dict[str, str] = {}  # why, by path
        self._seen: list[_Signature] = []  # of the last look

    def usable(self) -> conflist.Network:
        """The network. Raises UNAVAILABLE while there is none."""
        if self.network is None:
            words = f"cni plugin not initialized: {self.problem}"
            raise RopewalkError(words, hint=_HINT, kind=Kind.UNAVAILABLE)
        return self.network

    def condition(self) -> tuple[bool, str, str]:
        """As CRI's NetworkReady, in the words that tools know from containerd."""
        if not self.problem:
            return True, "", ""
        words = "cni plugin not ready" if self.network is not None else "cni plugin not initialized"
        hint = "" if self.network is not None else f"; {_HINT}"
        return False, "NetworkPluginNotReady", f"Network plugin returns error: {words}: {self.problem}{hint}"

    def info(self, directories: Sequence[str], interface: str) -> dict[str, str]:
        """containerd's keys of a verbose Status, which scripts read."""
        network = self.network
        found = [] if network is None else [{"Config": _described(network), "IFName": interface}]
        document = {
            "PluginDirs": list(directories),
            "PluginConfDir": self._directory,
            "PluginMaxConfNum": 1,
            "Prefix": interface.rstrip("0"),
            "Networks": found,
        }
        return {"cniconfig": msgspec.json.encode(document).decode(), "lastCNILoadStatus": self.problem or "OK"}

    async def watch(self) -> None:
        """For as long as the daemon runs."""
        while True:
            inode = _signature(self._directory)[1]
            try:
                watch = inotify.Watch(self._directory)
            except OSError:  # not there yet; the look says so
                await self._look()
                await asyncio.sleep(_RETRY)
                continue
            with watch:
                await self._look()
                while await self._is_due(watch, inode):
                    await self._look()

    async def _is_due(self, watch: inotify.Watch, inode: int) -> bool:
        """Wait until it is time to look again. False when the directory is gone, or another one.
        `inode`: of the one that is watched."""
        while True:
            try:
                async with asyncio.timeout(_RETRY if self.problem else _STATUS):
                    await anext(watch)
                break
            except TimeoutError:
                if _signature(self._directory)[1] != inode:
                    return False
                if self.problem or self._can_tell() or self._signatures() != self._seen:
                    return True
            except StopAsyncIteration:
                return False
        with contextlib.suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(_RESTLESS):
                while True:
                    async with asyncio.timeout(_QUIET):
                        await anext(watch)
        return True

    def _can_tell(self) -> bool:
        """Whether it is to be asked how it is, or has parts in a directory of their own."""
        return self.network is not None and (self.network.at_least("1.1.0") or self.network.aggregated)

    def _signatures(self) -> list[_Signature]:
        """Of what a look reads: the files of the directory, and the network's plugins and own directory."""
        try:
            found = conflist.files(self._directory)
        except OSError:
            return []
        if self.network is not None:
            found.append(os.path.join(self._directory, self.network.name))
            for type in self.network.types:
                with contextlib.suppress(RopewalkError):
                    found.append(self._plugins.find(type))
        return [_signature(path) for path in found]

    async def _look(self) -> None:
        """Find the network, and ask it how it is."""
        self._seen = self._signatures()  # before it reads: what changes meanwhile differs from this
        network, problem = await self._find()
        if network != self.network:
            log.info("pod network", extra={"network": network and network.name, "file": network and network.file})
        self.network = network
        if network is not None:
            problem = await self._ask(network)
        if problem != self.problem and problem:
            hint = _HINT if network is None else ""
            log.warning("the pod network is not ready", extra={"problem": problem, "hint": hint})
        self.problem = problem
        self.looked.set()

    async def _find(self) -> tuple[conflist.Network | None, str]:
        """The first usable configuration, or why there is none."""
        directory = self._directory
        try:
            candidates = conflist.files(directory)
        except OSError as error:
            return None, f"no network config found in {directory}: {error.strerror}"
        found, skipped = None, {}
        for path in candidates:
            try:
                found = await self._negotiate(conflist.read(path))
                break
            except (RopewalkError, OSError) as error:
                skipped[path] = str(error)
        if found is not None:
            self._say(skipped)
            return found, ""
        self._skipped = {}
        why = "; ".join(f"{os.path.basename(path)}: {reason}" for path, reason in skipped.items())
        if not why:
            return None, f"no network config found in {directory}: no file ends in {', '.join(conflist.EXTENSIONS)}"
        return None, f"no usable network config in {directory}: {why}"

    def _say(self, skipped: dict[str, str]) -> None:
        """Once for each file and reason; where no file is usable at all, `problem` holds them."""
        for path, reason in skipped.items():
            if self._skipped.get(path) != reason:
                log.warning("a network configuration is skipped", extra={"file": path, "reason": reason})
        self._skipped = skipped

    async def _negotiate(self, network: conflist.Network) -> conflist.Network:
        """In the newest version that all its plugins speak. A plugin that cannot say which may speak any."""
        spoken = []
        for type in network.types:
            self._plugins.find(type)
            try:
                spoken.append(await self._plugins.versions(type))
            except RopewalkError as error:
                log.warning("cannot ask a CNI plugin for its versions", extra={"error": error.message})
        return replace(network, version=conflist.choose_version(network.versions, [conflist.VERSIONS, *spoken]))

    async def _ask(self, network: conflist.Network) -> str:
        """STATUS: what keeps the plugins from adding pods, "" if nothing does or they cannot tell."""
        if network.at_least("1.1.0"):
            for plugin in network.plugins:
                try:
                    await self._plugins.run("STATUS", plugin["type"], conflist.build_input(network, plugin))
                except RopewalkError as error:
                    return error.message
        return ""


def _signature(path: str) -> _Signature:
    """What tells a file from a changed or another one under its name; zeroes if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, status.st_ino, status.st_size, status.st_mtime_ns


def _described(network: conflist.Network) -> dict[str, Any]:
    """go-cni's NetworkConfList."""
    plugins = [{"Network": plugin, "Source": msgspec.json.encode(plugin).decode()} for plugin in network.plugins]
    source = {"cniVersion": network.version, "name": network.name, "plugins": network.plugins}
    return {
        "Name": network.name,
        "CNIVersion": network.version,
        "Plugins": plugins,
        "Source": msgspec.json.encode(source).decode(),
    }
