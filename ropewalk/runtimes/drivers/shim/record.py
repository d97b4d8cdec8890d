"""What a bundle holds of its shim, beside what every bundle does (drivers/bundle.py):

    served.json    where its shim listens, and the process that it is: by this the next daemon finds it
    logger.json    the process that writes the log
    ended.json     how the container ended, once it is known: a shim that is gone cannot be asked again
    deleted        there is no task any more
    once           its standard input ends with the first attacher
    log            fifo: the shim's own messages        stdin stdout stderr, exec-*    fifos of streams
    ctl attach     the logger's

The rest is the shim's (config.json aside): address, options.json, init.pid, exit.json, work and so on. It is removed
whatever it is, but never through a mount.
"""

from __future__ import annotations

import contextlib
import os
import stat

import msgspec
from msgspec import Struct

from ropewalk.linux import paths
from ropewalk.runtimes.drivers import bundle
from ropewalk.runtimes.drivers.shim.binary import Endpoint
from ropewalk.runtimes.handler import Exit

OURS = ("rootfs", "lower", "volumes")  # what drivers/bundle.py unmounts and removes


class Process(Struct, frozen=True):
    pid: int
    start: int  # clock ticks since boot


class Logger(Process, frozen=True):
    """`leaf`: its control group."""

    leaf: str = ""


class Served(Struct, frozen=True):
    """`owner`: the id that the shim was started for, whose removal ends it."""

    owner: str
    endpoint: Endpoint
    shim: Process


class Bundle(bundle.Bundle):
    """A container's, or a pod's own."""

    def write_served(self, served: Served) -> None:
        paths.write_atomic(self.path("served.json"), msgspec.json.encode(served), 0o600)

    def read_served(self) -> Served | None:
        content = self.read("served.json")
        return msgspec.json.decode(content, type=Served) if content else None

    def write_logger(self, logger: Logger) -> None:
        paths.write_atomic(self.path("logger.json"), msgspec.json.encode(logger), 0o600)

    def read_logger(self) -> Logger | None:
        content = self.read("logger.json")
        return msgspec.json.decode(content, type=Logger) if content else None

    def write_ended(self, exit: Exit) -> None:
        """Nothing if the bundle is gone by now: then nobody asks either."""
        with contextlib.suppress(FileNotFoundError):
            paths.write_atomic(self.path("ended.json"), msgspec.json.encode(exit), 0o600)

    def read_ended(self) -> Exit | None:
        content = self.read("ended.json")
        return msgspec.json.decode(content, type=Exit) if content else None

    def write_deleted(self) -> None:
        """The shim has forgotten the task, or never had it."""
        with contextlib.suppress(FileNotFoundError):
            paths.write_atomic(self.path("deleted"), b"", 0o600)

    def is_deleted(self) -> bool:
        return os.path.lexists(self.path("deleted"))

    def write_once(self) -> None:
        paths.write_atomic(self.path("once"), b"", 0o600)

    def is_once(self) -> bool:
        return os.path.lexists(self.path("once"))

    def read_address(self) -> str:
        """What older shims leave here themselves, before they print it."""
        return self.read("address").decode(errors="replace").strip()

    def make_fifo(self, name: str) -> str:
        """Its path; one that an earlier attempt left is used."""
        path = self.path(name)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        return path

    def execs(self) -> list[str]:
        """Ids of execs whose fifos are here."""
        with contextlib.suppress(FileNotFoundError):
            return sorted({name.partition(".")[0] for name in os.listdir(self.directory) if name.startswith("exec-")})
        return []

    def forget_exec(self, exec_id: str) -> None:
        for stream in ("stdin", "stdout", "stderr"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(f"{exec_id}.{stream}"))

    def remove(self) -> None:
        """Directories that the shim made go first: what they hold is files of its own."""
        for name in os.listdir(self.directory) if os.path.isdir(self.directory) else ():
            path = self.path(name)
            with contextlib.suppress(FileNotFoundError):  # a shim that ends removes files, too
                if name not in OURS and stat.S_ISDIR(os.lstat(path).st_mode):
                    paths.remove_tree(path)
        super().remove()
