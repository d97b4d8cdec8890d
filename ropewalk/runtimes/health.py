"""Whether each runtime handler works on this node: what its last probe found, kept over restarts, asked again.

A probe really runs something, which costs processes and time. So what one that worked has found is kept in the state
directory, under everything that it depended on: the programs (path, size, time), the handler's configuration, version
and driver of the control groups, the kernel and this boot. As long as that is the same, the next daemon begins with it.
What changed is probed again while the daemon runs; what does not work is, too, ever more rarely, and
`ropewalk runtimes --probe` asks all at once.

RunPodSandbox, Status and `ropewalk runtimes` are served from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import paths, process, spawn
from ropewalk.runtimes.handler import Capabilities, Handler, Level, Probe
from ropewalk.runtimes.monitors import own
from ropewalk.version import VERSION

PATIENCE = 60.0  # seconds for one that failed before: a node that is too busy for it at boot is not lost for good
WATCH = 10.0  # seconds between looks at what handlers depend on
FIRST = 20.0  # seconds that a pod or container waits for the first probe of its handler ever
LONGEST = 300.0  # seconds between probes of a handler that does not work; they double up to here
UNPROBED = Probe(Level.PRESENT, advice="it is still being probed; ask again")

log = logging.getLogger(__name__)


class Kept(Struct, frozen=True):
    """<directory>/<handler>.json: what a probe found; `key`: digest of all it depended on."""

    key: str
    probe: Probe
    capabilities: Capabilities


class NotWorking(RopewalkError):
    """The handler exists, and cannot run a pod on this node as it is."""

    kind = Kind.UNAVAILABLE

    def __init__(self, name: str, probe: Probe) -> None:
        found = probe.evidence or "nothing ran yet"
        super().__init__(f"runtime handler {name!r} does not work on this node: {found}", hint=probe.advice)


class Health:
    """The last probe of each handler. `directory`: where they are kept over restarts, "" for nowhere;
    `layout`: how this daemon makes control groups (version and driver). `run` belongs to a task of the daemon."""

    def __init__(
        self, handlers: Mapping[str, Handler], *, directory: str = "", first: str = "", layout: str = ""
    ) -> None:
        self._handlers = handlers
        self._directory = directory
        self._first = first  # the handler to be probed before the others: most pods wait for it
        self._layout = layout
        self._probes: dict[str, Probe] = {}
        self._keys: dict[str, str] = {}
        self._known = {name: asyncio.Event() for name in handlers}
        self._waits = dict.fromkeys(handlers, WATCH)  # until a handler that does not work is asked again
        self._due = dict.fromkeys(handlers, 0.0)  # when that is, monotonic
        self._probing = asyncio.Lock()

    def probe(self, name: str) -> Probe:
        """What the handler's last probe saw."""
        return self._probes.get(name, UNPROBED)

    def probes(self) -> dict[str, Probe]:
        return {name: self.probe(name) for name in self._handlers}

    async def known(self, names: Iterable[str], timeout: float) -> None:
        """Wait until each of these was probed once, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for name in names:
                    await self._known[name].wait()

    def require(self, name: str) -> None:
        """Raise NotWorking unless the handler works."""
        if not self.probe(name).works:
            raise NotWorking(name, self.probe(name))

    async def run(self, watch: float = WATCH) -> None:
        """Begin with what is known of earlier probes, probe the rest, and then whatever changed or does not work."""
        unknown = [name for name in self._handlers if not await self._recall(name)]
        for names in ([n for n in unknown if n == self._first], [n for n in unknown if n != self._first]):
            await self.refresh(names)
        while True:
            await asyncio.sleep(watch)
            await self.refresh([name for name in self._handlers if self._is_due(name)])

    def _is_due(self, name: str) -> bool:
        if key(self._handlers[name], self._layout) != self._keys.get(name):
            return True
        return not self.probe(name).works and time.monotonic() >= self._due[name]

    async def refresh(self, names: Iterable[str]) -> None:
        """Probe these handlers now, side by side."""
        async with self._probing, asyncio.TaskGroup() as group:  # cancelled, it waits for what each still removes
            for name in names:
                group.create_task(self._refresh(name))

    async def _refresh(self, name: str) -> None:
        handler = self._handlers[name]
        before = key(handler, self._layout)
        seen = await probe(handler, max(handler.probe_seconds, min(self._waits[name], PATIENCE)))
        self._waits[name] = WATCH if seen.works else min(self._waits[name] * 2, LONGEST)
        self._due[name] = time.monotonic() + self._waits[name]
        self._keys[name] = before
        self.note(name, seen)
        self._keep(name, Kept(before, seen, handler.capabilities))

    def note(self, name: str, probe: Probe) -> None:
        """This is known of a handler now."""
        if probe != self._probes.get(name):
            level = logging.INFO if probe.works else logging.WARNING
            facts = {"handler": name, "state": probe.level.value, "version": probe.version}
            log.log(level, "probed", extra=facts | {"evidence": probe.evidence, "advice": probe.advice})
        self._probes[name] = probe
        self._known[name].set()

    # What is kept over restarts.

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, f"{name}.json")

    def _keep(self, name: str, kept: Kept) -> None:
        """Only what works: the next daemon probes the others anyway."""
        if not self._directory:
            return
        try:
            if kept.probe.works:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                paths.write_atomic(self._path(name), msgspec.json.encode(kept), 0o600)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(name))
        except OSError as error:
            log.warning("a probe cannot be kept", extra={"handler": name, "error": str(error)})

    def _read(self, name: str) -> Kept | None:
        if not self._directory:
            return None
        try:
            with open(self._path(name), "rb") as file:
                return msgspec.json.decode(file.read(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return None

    async def _recall(self, name: str) -> bool:
        """Whether an earlier daemon's probe still holds; it is taken over. A handler that cannot be prepared is left
        to its probe, which says why: it keeps nobody else from theirs."""
        handler, kept = self._handlers[name], self._read(name)
        if kept is None or kept.key != key(handler, self._layout):
            return False
        try:
            await handler.prepare()
        except Exception as error:
            log.warning("a handler cannot be prepared", extra={"handler": name}, exc_info=error)
            return False
        handler.recall(kept.probe, kept.capabilities)
        self._keys[name] = kept.key
        self.note(name, kept.probe)
        return True


def key(handler: Handler, layout: str) -> str:
    """A digest of what a probe depends on: it holds as long as this is the same."""
    node = [VERSION, own.PROTOCOL, platform.release(), process.boot_id(), layout]
    files = [_file(program) for program in handler.programs]
    mine = [type(handler).__qualname__, type(handler).capabilities, handler.config, files]
    return hashlib.sha256(msgspec.json.encode([node, mine])).hexdigest()


def _file(program: str) -> tuple[str, int, int]:
    """Where a program is, its size and time of change; zeroes if it is nowhere."""
    found = shutil.which(program, path=spawn.PATH) or program
    try:
        status = os.stat(found)
    except OSError:
        return found, 0, 0
    return found, status.st_size, status.st_mtime_ns


async def probe(handler: Handler, deadline: float = 0.0) -> Probe:
    """What the handler's probe finds, within `deadline` seconds (its own if 0), whatever it raises."""
    deadline = deadline or handler.probe_seconds
    try:
        async with asyncio.timeout(deadline):
            await handler.prepare()
            return await handler.probe()
    except TimeoutError:
        return Probe(Level.PRESENT, evidence=f"its probe did not end within {deadline:.0f} s")
    except Exception as error:
        log.warning("a probe failed", extra={"handler": handler.name}, exc_info=error)
        return Probe(Level.PRESENT, evidence=f"its probe failed: {error}")
