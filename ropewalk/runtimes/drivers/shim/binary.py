"""A shim's program: found by its runtime name, started in the dialect that it understands, and asked to clean up.

`start` prints where the shim listens and ends; the shim goes on. What it reads from standard input changed with
containerd 2.3, and neither side accepts the other's:

    legacy     Any of the runtime's options     answers a plain address, or JSON with version and protocol
    bootstrap  BootstrapParams                  answers BootstrapResult

Legacy is tried first: a newer shim refuses it before it does anything, while an old one that meets the newer dialect
has started its child already. What worked is remembered for exactly this program (path, size, change time), on disk
too.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import shutil
from collections.abc import Mapping

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Struct, structs

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError, Unsupported
from ropewalk.linux import cgroup, paths, process, spawn
from ropewalk.runtimes.drivers import execution
from ropewalk.runtimes.monitors import monitor
from ropewalk.wire.pb import shim_pb2 as pb

START_SECONDS = 60.0  # a virtual machine's shim may boot it here
DELETE_SECONDS = 30.0
VERSION_SECONDS = 5.0
OUTPUT_LIMIT = 64 << 10
NEWEST = 3  # of the task API
PUBLISHER = "/bin/true"  # what shims before ttrpc events ran to publish one; Kata insists that there is a name


class Dialect(enum.Enum):
    LEGACY = "legacy"
    BOOTSTRAP = "bootstrap"


class Knowledge(Struct, frozen=True):
    """What was learnt of one program. `groups`: its second container in a pod answered with the address of the first,
    so that later ones need not ask; None as long as nobody tried."""

    size: int
    changed: int  # nanoseconds since the epoch
    dialect: Dialect
    groups: bool | None = None


class Endpoint(Struct, frozen=True):
    """Where a shim listens, and which version of the task API it says it has."""

    address: str
    version: int = 2


class Launch(Struct, frozen=True):
    """What `start` needs. `options`: a serialised Any, b"" for none; `cgroup`: a leaf for the shim."""

    id: str
    bundle: str
    options: bytes = b""
    cgroup: str = ""


class Place(Struct, frozen=True):
    """What is the same for every shim of one daemon. `events`: the socket that gets events; `identity`: a path that
    makes the names of this daemon's shim sockets unlike any other's; `directory`: of the file of what was learnt."""

    namespace: str
    events: str
    identity: str
    directory: str


class Binary:
    """`program`: a path, a name in PATH, or a runtime's name (io.containerd.runc.v2)."""

    def __init__(self, program: str, place: Place, *, env: Mapping[str, str] | None = None) -> None:
        self.program = program
        self.place = place
        self.env = dict(env or {})
        self._known: dict[str, Knowledge] | None = None

    @property
    def path(self) -> str:
        """Looked up at each use: it may be installed, or replaced, while the daemon runs. UNAVAILABLE if absent."""
        name = file_name(self.program)
        found = shutil.which(name, path=spawn.PATH)
        if found is None:
            text = f"no shim {name!r} on this node"
            hint = "apt-get install containerd" if name == "containerd-shim-runc-v2" else "install it, or set its path"
            raise RopewalkError(text, hint=hint, kind=Kind.UNAVAILABLE)
        return found

    async def start(self, launch: Launch, cgroups: cgroup.Cgroups) -> Endpoint:
        """Start a shim for the bundle, or learn the address of the one that serves its pod already."""
        known = self.known()
        if known is not None:
            return await self._start(launch, known.dialect, cgroups)
        try:
            endpoint = await self._start(launch, Dialect.LEGACY, cgroups)
        except StartFailed as error:
            try:
                endpoint = await self._start(launch, Dialect.BOOTSTRAP, cgroups)
            except StartFailed as second:
                second.add_note(f"in the older dialect: {error.message}")
                raise
            self.learn(dialect=Dialect.BOOTSTRAP)
        else:
            self.learn(dialect=Dialect.LEGACY)
        return endpoint

    async def _start(self, launch: Launch, dialect: Dialect, cgroups: cgroup.Cgroups) -> Endpoint:
        content = launch.options
        if dialect is Dialect.BOOTSTRAP:
            content = self._bootstrap(launch).SerializeToString()
        argv = [*self._prefix(launch.id), "start"]
        done = await self._run(argv, content, launch, cgroups)
        if done.code:
            raise StartFailed(launch.id, self.path, done)
        return parse_answer(done.stdout, launch.id)

    def _bootstrap(self, launch: Launch) -> pb.BootstrapParams:
        params = pb.BootstrapParams(
            instance_id=launch.id,
            namespace=self.place.namespace,
            containerd_version="2.3.0",  # the first that speaks so
            containerd_ttrpc_address=self.place.events,
            containerd_grpc_address=self.place.identity,
            containerd_binary=PUBLISHER,
        )
        if launch.options:
            params.extensions.add(value=pb.Any.FromString(launch.options))
        return params

    def _prefix(self, id: str) -> list[str]:
        """Go's flag package: flags come before the verb."""
        place = self.place
        return [
            self.path,
            *("-namespace", place.namespace),
            *("-address", place.identity),
            *("-publish-binary", PUBLISHER),
            *("-id", id),
        ]

    def _environment(self) -> dict[str, str]:
        place = self.place
        return {
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": "2",  # of shims, not of their task API
            "TTRPC_ADDRESS": place.events,
            "GRPC_ADDRESS": place.identity,
            "NAMESPACE": place.namespace,
            **self.env,
        }

    async def _run(
        self, argv: list[str], content: bytes, launch: Launch, cgroups: cgroup.Cgroups | None
    ) -> spawn.Completed:
        """Run it in a session of its own, which the shim inherits, and in the monitors' control group."""
        seconds = START_SECONDS if argv[-1] == "start" else DELETE_SECONDS
        with contextlib.ExitStack() as stack:
            outputs = [spawn.Output(OUTPUT_LIMIT) for _ in range(2)]
            for output in outputs:
                stack.callback(output.close)
            stdin = stack.enter_context(execution.memory_file("shim-stdin", content)) if content else None
            if stdin is not None:
                os.lseek(stdin, 0, os.SEEK_SET)
            stdout, stderr = (output.fd for output in outputs)
            child = spawn.spawn(
                argv, env=self._environment(), stdin=stdin, stdout=stdout, stderr=stderr, cwd=launch.bundle
            )
            stack.callback(child.kill)
            for output in outputs:
                output.started()
            if launch.cgroup and cgroups is not None:
                put(cgroups, launch.cgroup, child.pid)  # before it has started another process
            try:
                async with asyncio.timeout(seconds):
                    code = await child.wait()
            except TimeoutError:
                text = f"container {ids.short(launch.id)}: `{os.path.basename(argv[0])} {argv[-1]}` did not end"
                raise RopewalkError(f"{text} within {seconds:g} s", kind=Kind.TIMEOUT) from None
            return spawn.Completed(code, *(output.finish() for output in outputs))

    async def delete(self, id: str, bundle: str) -> pb.DeleteResponse | None:
        """The verb that cleans up after a shim that is dead: what the runtime made, and mounts. Returns how the task
        had ended, None if it could not tell. RopewalkError if it fails."""
        argv = [*self._prefix(id), "-bundle", bundle, "delete"]
        done = await self._run(argv, b"", Launch(id=id, bundle=bundle), None)
        if done.code:
            raise StartFailed(id, self.path, done, verb="delete")
        try:
            return pb.DeleteResponse.FromString(done.stdout)
        except DecodeError:
            return None

    async def version(self) -> str:
        """Its name and version: what `-info` tells since containerd 2.0, else what `-v` prints, on one line. Of
        Kata the latter is the version of a library."""
        done = await spawn.run([self.path, "-info"], timeout=VERSION_SECONDS)
        if not done.code and (told := parse_info(done.stdout)):
            return f"{os.path.basename(self.path)} {told}"
        done = await spawn.run([self.path, "-v"], timeout=VERSION_SECONDS)
        lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
        if done.code or not lines:
            raise RopewalkError(f"{self.path} -v: exit code {done.code}: {done.stderr.decode(errors='replace')[:200]}")
        return " ".join([lines[0].rstrip(":"), *(line.partition(":")[2].strip() for line in lines[1:2])])

    def starters(self, id: str) -> list[int]:
        """Processes of a `start` for this id, and a shim that was started for it: by their arguments."""
        wanted = {b"-id", os.fsencode(id), os.fsencode(self.place.identity)}
        return [pid for pid in process.find(os.fsencode(id)) if wanted <= set(process.command_line(pid))]

    def running(self, id: str) -> int:
        """The shim that was started for this id, once its `start` has ended: by its arguments, which what it forks has,
        too. RopewalkError if that is none, or several."""
        found = self.starters(id)
        first = [pid for pid in found if (seen := process.stat(pid)) is not None and seen.parent not in found]
        if len(first) != 1:
            text = f"container {ids.short(id)}: its shim does not say which process it is"
            raise RopewalkError(text, hint="nor does a process have the arguments of its start", kind=Kind.UNAVAILABLE)
        return first[0]

    # What was learnt

    def known(self) -> Knowledge | None:
        """Of the program as it is now."""
        path = self.path
        if self._known is None:
            self._known = self._read()
        found = self._known.get(path)
        size, changed = _identity(path)
        return found if found is not None and (found.size, found.changed) == (size, changed) else None

    def learn(self, *, dialect: Dialect | None = None, groups: bool | None = None) -> None:
        """Keep what a start has shown, for the next daemon too."""
        path, before = self.path, self.known()
        size, changed = _identity(path)
        if before is None:
            before = Knowledge(size=size, changed=changed, dialect=dialect or Dialect.LEGACY)
        wanted = structs.replace(
            before, dialect=dialect or before.dialect, groups=before.groups if groups is None else groups
        )
        self._known = {**self._read(), path: wanted}  # other handlers learn beside this one
        os.makedirs(self.place.directory, mode=0o700, exist_ok=True)
        paths.write_atomic(self._file, msgspec.json.encode(self._known), 0o600)

    @property
    def _file(self) -> str:
        return os.path.join(self.place.directory, "known.json")

    def _read(self) -> dict[str, Knowledge]:
        try:
            with open(self._file, "rb") as file:
                return msgspec.json.decode(file.read(), type=dict[str, Knowledge])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}


class StartFailed(RopewalkError):
    """The program ended with an error; the text is what it said last."""

    def __init__(self, id: str, path: str, done: spawn.Completed, *, verb: str = "start") -> None:
        said = (done.stderr + b"\n" + done.stdout).decode(errors="replace").strip().splitlines()
        why = said[-1].strip()[:1000] if said else f"exit code {done.code} without a word"
        if done.code < 0:  # whatever it had said by then
            why = f"it was ended by signal {-done.code}"
        super().__init__(f"container {ids.short(id)}: `{os.path.basename(path)} {verb}` failed: {why}")


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def file_name(program: str) -> str:
    """The program of a runtime's name: io.containerd.runc.v2 is containerd-shim-runc-v2; a path is a path."""
    parts = program.split(".")
    if "/" in program or len(parts) < 3 or not all(parts):
        return program
    return f"containerd-shim-{parts[-2]}-{parts[-1]}"


def put(cgroups: cgroup.Cgroups, path: str, pid: int) -> None:
    """Into a leaf for monitors, which the pod's first process makes. One that has ended needs none."""
    accounted = sorted(cgroups.controllers() & monitor.ACCOUNTED)  # the others only cost time
    with contextlib.suppress(ProcessLookupError):
        try:
            cgroups.add(path, pid, controllers=accounted)
        except FileNotFoundError:
            cgroups.make(path, controllers=accounted)
            cgroups.add(path, pid, controllers=accounted)


def parse_info(answer: bytes) -> str:
    """The version in a RuntimeInfo, "" if it is none."""
    try:
        return pb.RuntimeInfo.FromString(answer).version.version
    except DecodeError:
        return ""


def parse_answer(answer: bytes, id: str) -> Endpoint:
    """BootstrapResult, JSON, or a plain address: the first that it can be."""
    endpoint = _parse_result(answer) or _parse_json(answer)
    if endpoint is None:
        text = answer.decode(errors="replace").strip()
        endpoint = ("ttrpc", Endpoint(text)) if "://" in text and "\n" not in text else None
    if endpoint is None:
        raise RopewalkError(f"container {ids.short(id)}: the shim answered {answer[:100]!r}, which is no address")
    protocol, found = endpoint
    if protocol != "ttrpc":
        raise Unsupported(f"container {ids.short(id)}: the shim speaks {protocol!r}, not ttrpc")
    if not 2 <= found.version <= NEWEST:
        raise Unsupported(f"container {ids.short(id)}: the shim has task API {found.version}; 2 to {NEWEST} are known")
    return found


def _parse_result(answer: bytes) -> tuple[str, Endpoint] | None:
    try:
        result = pb.BootstrapResult.FromString(answer)
    except DecodeError:
        return None
    if "://" not in result.address:
        return None
    return result.protocol or "ttrpc", Endpoint(result.address, result.version)


class _Answer(Struct, frozen=True):
    version: int
    address: str
    protocol: str = "ttrpc"


def _parse_json(answer: bytes) -> tuple[str, Endpoint] | None:
    try:
        found = msgspec.json.decode(answer, type=_Answer)
    except msgspec.DecodeError:
        return None
    return found.protocol, Endpoint(found.address, found.version)
