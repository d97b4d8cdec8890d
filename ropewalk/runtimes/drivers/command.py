"""An OCI runtime's command line: its global flags, its JSON log, and errors made of it.

Every verb runs with a fixed environment, directory "/", standard streams at /dev/null, and its log in a memory file,
so that a container can neither hold a pipe of ours nor reach a file of ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import spawn
from ropewalk.runtimes.drivers import sealed

LOG_FD = 3
LOG_LIMIT = 65536
ANSWER_LIMIT = 1 << 20
SEAL_SECONDS = 5.0

SIGNAL_RULE = "its AppArmor profile needs: signal (receive) peer=unconfined,"

# What a runtime says -> kind, what to do. The first match counts.
EXPLANATIONS = (
    ("error finding executable", Kind.INVALID, "is the command in the image, and its directory in PATH?"),
    ("failed to load", Kind.INVALID, "the command must be an executable file, with what its #! line names"),
    ("executable file", Kind.INVALID, "is the command in the image, and its directory in PATH?"),
    ("exec format error", Kind.INVALID, "the program is for another architecture, or lacks its #! line"),
    ("open executable", Kind.INVALID, "the command must be an executable file"),
    ("not found in $path", Kind.INVALID, "is the command in the image, and its directory in PATH?"),  # youki's words
    ("incompatible container status", Kind.STATE, ""),
    ("no space left", Kind.EXHAUSTED, "free space in the state directory and in the snapshotter's"),
    ("does not exist", Kind.NOT_FOUND, ""),
    ("is not running", Kind.STATE, ""),
    ("stopped container", Kind.STATE, ""),
    ("container that has stopped", Kind.STATE, ""),
    ("not started", Kind.STATE, ""),  # runsc's word of what ended before its start, too
    ("in state stopped", Kind.STATE, ""),
    ("already dead", Kind.STATE, ""),
    ("kill: permission denied", Kind.DENIED, SIGNAL_RULE),
    ("save rejected", Kind.STATE, "what the container has open cannot be saved"),
    ("cgroups in hybrid mode", Kind.UNSUPPORTED, "mount the v1 hugetlb controller, or boot with cgroup v2 only"),
    ("unknown version specified", Kind.UNSUPPORTED, "the runtime is older than the bundle's ociVersion: upgrade it"),
)


class Line(Struct, frozen=True):
    """One line of a log in JSON (crun, runc, runsc), or of youki's, which calls things otherwise."""

    msg: str = ""
    level: str = "error"
    message: str = ""
    err: str = ""


class Command:
    """`program` (a path or a name in PATH) with `--root root`; `flags` are further global flags."""

    def __init__(self, program: str, root: str, flags: Sequence[str] = ()) -> None:
        self.program = program
        self.root = root
        self.flags = list(flags)
        self.sealed: sealed.Sealed | None = None

    @property
    def source(self) -> str:
        """The program as it is installed. Looked up at each use: it may be installed, or replaced, while the daemon
        runs. The name if it is absent."""
        try:
            return spawn.look_up(self.program)
        except FileNotFoundError:
            return self.program

    @property
    def path(self) -> str:
        """What is run: the program, or its sealed copy."""
        found = self.source
        return self.sealed.ensure(found) if self.sealed is not None else found

    async def seal(self, link: str) -> None:
        """From now on run a sealed copy of the program, by the path `link`, if that runs here (sealed.py)."""
        if self.sealed is not None:
            return
        chosen = sealed.Sealed(link)
        try:
            completed = await spawn.run([chosen.ensure(self.path), "--version"], timeout=SEAL_SECONDS)
        except (OSError, RopewalkError):
            chosen.close()
            return
        if completed.code == 0:
            self.sealed = chosen
        else:
            chosen.close()

    def prefix(self, log: str) -> list[str]:
        """argv up to the verb. Kind.UNAVAILABLE if there is no such program."""
        path = self.path
        if not os.path.isabs(path) or not os.path.exists(path):
            text = f"no runtime {self.program!r} on this node"
            raise RopewalkError(text, hint=f"apt-get install {os.path.basename(self.program)}", kind=Kind.UNAVAILABLE)
        return [path, f"--root={self.root}", f"--log={log}", "--log-format=json", *self.flags]

    async def run(
        self, id: str, *verb: str, timeout: float, flags: Sequence[str] = (), mounts: Callable[[], None] | None = None
    ) -> None:
        """Run a verb to its end. RopewalkError naming container `id`, with the runtime's own message. `flags` are
        further global flags; `mounts`: see spawn.spawn."""
        await self._run(id, verb, timeout, flags=flags, mounts=mounts)

    async def ask(self, id: str, *verb: str, timeout: float, limit: int = ANSWER_LIMIT) -> bytes:
        """Likewise for a verb that prints: its standard output, at most `limit` bytes. Never for one that starts
        something, which would inherit the pipe."""
        output = spawn.Output(limit)
        try:
            await self._run(id, verb, timeout, output=output)
            return output.finish()
        finally:
            output.close()

    async def _run(
        self,
        id: str,
        verb: Sequence[str],
        timeout: float,
        *,
        flags: Sequence[str] = (),
        mounts: Callable[[], None] | None = None,
        output: spawn.Output | None = None,
    ) -> None:
        log = os.memfd_create("oci-log")
        try:
            argv = [*self.prefix(f"/proc/self/fd/{LOG_FD}"), *flags, *verb]
            stdout = None if output is None else output.fd
            process = spawn.spawn(argv, stdout=stdout, pass_fds={LOG_FD: log}, session=False, mounts=mounts)
            if output is not None:
                output.started()
            try:
                async with asyncio.timeout(timeout or None):
                    code = await process.wait()
            except TimeoutError:
                text = f"container {ids.short(id)}: `{verb[0]}` did not end within {timeout:g} s"
                raise RopewalkError(text, kind=Kind.TIMEOUT) from None
            finally:
                process.kill()
            if code:
                message = parse_log(os.pread(log, LOG_LIMIT, 0)) or f"exit code {code} without a message"
                raise failure(id, verb[0], message)
        finally:
            os.close(log)


def parse_log(content: bytes) -> str:
    """The last error of a JSON log, its first line; or the first line that is not JSON; "" if there is none."""
    last = plain = ""
    for text in content.splitlines():
        try:
            line = msgspec.json.decode(text, type=Line)
        except msgspec.DecodeError:
            line = Line()
        said = line.msg or ": ".join(part for part in (line.message, line.err) if part)
        if not said:
            plain = plain or text.decode(errors="replace").strip()
            continue
        if line.level.lower() in ("error", "fatal"):
            last = said
    return (last or plain).strip().split("\n", 1)[0]


def failure(id: str, verb: str, message: str) -> RopewalkError:
    """The runtime's refusal as an error of ours."""
    lowered = message.lower()
    for words, kind, hint in EXPLANATIONS:
        if words in lowered:
            return RopewalkError(f"container {ids.short(id)}: {verb}: {message}", hint=hint, kind=kind)
    return RopewalkError(f"container {ids.short(id)}: {verb}: {message}")
