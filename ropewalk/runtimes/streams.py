"""The Streams contract: the standard streams of a container or of a command in it, while somebody is there.

A handler gives one for each attach and each interactive exec; the streaming server copies between it and a client::

    streams = await handler.exec_stream(id, task, process, tty=True)
    try:
        await streams.resize(80, 24)
        await streams.write(b"ls\\n")
        while (chunk := await streams.read()) is not None:
            ...                                     # chunk.stream is STDOUT or STDERR
        code = await streams.exit()
    finally:
        await streams.close()

`read` and `write` may be under way at once, each once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

STDOUT, STDERR = 1, 2


class Chunk(NamedTuple):
    """Some bytes of one output stream, as they came. With a terminal all is STDOUT."""

    stream: int
    data: bytes


class Streams(ABC):
    """See the module's essay. RopewalkError if the other side breaks."""

    @abstractmethod
    async def read(self) -> Chunk | None:
        """What comes next; None at the end of both outputs."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """To standard input; returns when the other side has room for more. What nobody reads any more is dropped."""

    @abstractmethod
    async def close_stdin(self) -> None:
        """End-of-file on standard input; idempotent."""

    @abstractmethod
    async def resize(self, width: int, height: int) -> None:
        """The terminal's size in characters; without a terminal nothing happens."""

    @abstractmethod
    async def exit(self) -> int:
        """The exit code of what these streams belong to (128+n for signal n), once it has ended."""

    @abstractmethod
    async def close(self) -> None:
        """Let go; idempotent. A container goes on without its attacher; a command of exec is killed."""
