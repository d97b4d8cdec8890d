"""Running CNI plugins: one process per call, with a fixed environment and a deadline (CNI specification 1.1.0, 2).

A plugin that hangs is killed with the processes it started in its group, and only the pod that it worked for waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Collection, Sequence

import msgspec
from msgspec import Struct, field

from ropewalk.errors import Kind, NotFound, RopewalkError
from ropewalk.linux import process, spawn
from ropewalk.network import conflist

log = logging.getLogger(__name__)

_TRY_AGAIN = 11  # an error code of the specification

_QUICK = 10.0  # seconds for what only asks (VERSION, STATUS, CHECK), and for GC, which pods wait for
_ENDING = 2.0  # seconds from SIGKILL to the end; what takes longer waits for a device or a file system
_OUTPUT = 1 << 20
_SHOWN = 500  # characters of what a plugin said that go into an error


class Failed(RopewalkError):
    """A plugin refused. `code`: CNI's, 0 if it gave none."""

    code: int = 0


class _Error(Struct):
    """What a plugin prints when it refuses."""

    code: int = 0
    msg: str = ""
    details: str = ""


class _Versions(Struct):
    supported: list[str] = field(name="supportedVersions", default_factory=list)


class Plugins:
    """The programs in `directories`, first match wins. `timeout`: seconds for one that changes something."""

    def __init__(self, directories: Sequence[str], timeout: float) -> None:
        self._directories = list(directories)
        self._timeout = timeout
        self._versions: dict[tuple[str, int, int], list[str]] = {}  # by path, modification time and size

    def find(self, type: str) -> str:
        """The path of a plugin whose type was checked (conflist.check_types)."""
        for directory in self._directories:
            path = os.path.join(directory, type)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
        raise NotFound(
            f"the CNI plugin {type!r} is in none of {', '.join(self._directories)}",
            hint="install it, or set network.cni.bin_dirs",
        )

    async def run(
        self,
        command: str,
        type: str,
        document: bytes,
        *,
        container_id: str = "",
        netns: str = "",
        interface: str = "",
        arguments: str = "",
    ) -> bytes:
        """What the plugin prints. Raises Failed in its own words, TIMEOUT, NOT_FOUND if it is not installed."""
        env = {"CNI_COMMAND": command, "CNI_PATH": ":".join(self._directories)}
        if container_id:
            env |= {
                "CNI_CONTAINERID": container_id,
                "CNI_NETNS": netns,
                "CNI_IFNAME": interface,
                "CNI_ARGS": arguments,
            }
        timeout = self._timeout if command in ("ADD", "DEL") else min(_QUICK, self._timeout)
        try:
            done = await spawn.run([self.find(type)], input=document, timeout=timeout, env=env, limit=_OUTPUT)
        except OSError as error:
            raise Failed(f"CNI {command}: cannot run the plugin {type}: {error}") from error
        except RopewalkError as error:
            if error.kind is not Kind.TIMEOUT:
                raise
            raise RopewalkError(
                f"CNI {command}: the plugin {type} did not end within {timeout:g} s and was killed", kind=Kind.TIMEOUT
            ) from error
        if done.code:
            raise _failure(command, type, done)
        return done.stdout

    async def end_strays(self, container_ids: Collection[str]) -> None:
        """Kill plugins that an earlier daemon, itself killed, left running for these attachments, whose ADD was not
        done: going on beside our DEL it would leave what it makes. They are known by their environment, their children
        by the process group, which was theirs alone."""
        ids = {f"CNI_CONTAINERID={id}".encode() for id in container_ids}
        pidfds = []
        for pid in process.pids() if ids else ():
            start = process.start_time(pid)
            if start is None or ids.isdisjoint(process.environment(pid)):
                continue
            with contextlib.suppress(OSError):
                log.warning("killing a CNI plugin that an earlier daemon left", extra={"pid": pid})
                if (pidfd := process.open_pidfd(pid, start)) is not None:
                    pidfds.append(pidfd)
                    group = os.getpgid(pid)
                    process.send_signal(pidfd, signal.SIGKILL)
                    if group != os.getpgrp():
                        os.killpg(group, signal.SIGKILL)
        try:
            async with asyncio.timeout(_ENDING):
                for pidfd in pidfds:
                    await process.wait_pidfd(pidfd)
        except TimeoutError:
            log.error("a CNI plugin of an earlier daemon cannot be killed", extra={"seconds": _ENDING})
        finally:
            for pidfd in pidfds:
                os.close(pidfd)

    async def versions(self, type: str) -> list[str]:
        """Those that a plugin speaks; asked once per installed file."""
        path = self.find(type)
        status = os.stat(path)
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._versions:
            said = await self.run("VERSION", type, b'{"cniVersion":"1.0.0"}')
            try:
                self._versions[key] = msgspec.json.decode(said, type=_Versions).supported
            except conflist.UNREADABLE as error:
                raise Failed(f"CNI VERSION: the plugin {type} answered {_shown(said)!r}: {error}") from error
        return self._versions[key]


def _failure(command: str, type: str, done: spawn.Completed) -> Failed:
    try:
        said = msgspec.json.decode(done.stdout, type=_Error)
        words = "; ".join(filter(None, (said.msg, said.details)))
    except conflist.UNREADABLE:
        said, words = _Error(), ""
    words = words or _shown(done.stderr) or _shown(done.stdout) or "it said nothing"
    ended = f"code {said.code}" if said.code else f"exit {done.code}" if done.code > 0 else f"signal {-done.code}"
    failed = Failed(
        f"CNI {command}: the plugin {type} failed ({ended}): {words[:_SHOWN]}",
        kind=Kind.UNAVAILABLE if said.code == _TRY_AGAIN else Kind.INTERNAL,
    )
    failed.code = said.code
    return failed


def _shown(output: bytes) -> str:
    """The end of what it printed."""
    return output.decode(errors="replace").strip()[-_SHOWN:]
