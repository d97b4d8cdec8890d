"""What a container wrote: its log read and printed, each stream on its own, with times or as JSON where asked."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ropewalk.cli import output
from ropewalk.client import logs, values
from ropewalk.errors import Kind, NotFound, RopewalkError, WrongState

if TYPE_CHECKING:
    from ropewalk.client import cri

POLL = 0.05  # seconds between two looks at a log that is followed
FIRST, LONGEST = 0.02, 0.5  # seconds between two looks at its container: a short one is told at once


class Printer:
    """Writes entries to stdout and stderr as bytes: a container's output need not be UTF-8."""

    def __init__(self, *, timestamps: bool = False, as_json: bool = False, since: str = "") -> None:
        """`since`: RFC 3339 in UTC; entries before it are left out."""
        self._timestamps = timestamps
        self._as_json = as_json
        self._since = since
        self._inside: dict[str, bool] = {}  # stream: its line is not at its end

    def write(self, entry: logs.Entry) -> None:
        if self._since and comparable(entry.time) < comparable(self._since):
            return
        if self._as_json:
            text = entry.content.decode(errors="replace")
            output.emit({"time": entry.time, "stream": entry.stream, "partial": entry.partial, "log": text}, line=True)
            return
        file = (sys.stderr if entry.stream == "stderr" else sys.stdout).buffer
        if self._timestamps and not self._inside.get(entry.stream):
            file.write(entry.time.encode() + b" ")
        file.write(entry.output)
        self._inside[entry.stream] = entry.partial

    def flush(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()


def comparable(time: str) -> str:
    """An RFC 3339 time so that texts sort as times do: UTC, nanoseconds."""
    time = time.removesuffix("+00:00") + "Z" if time.endswith("+00:00") else time
    if time.endswith("Z") and len(time) == 30:  # what runtimes write on a node whose zone is UTC
        return time
    import datetime

    whole, _, rest = time.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    try:
        at = datetime.datetime.fromisoformat(whole + rest[len(digits) :])
    except ValueError:
        return time
    return f"{at.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%S}.{digits:0<9.9}Z"


async def show(status: values.ContainerStatus, printer: Printer, *, tail: int | None = None) -> None:
    """The entries there are."""
    with _readable(status):
        async for entry in logs.read(status.log_path, tail=tail):
            printer.write(entry)
    printer.flush()


async def follow(
    client: cri.Client, status: values.ContainerStatus, printer: Printer, *, tail: int | None = None
) -> values.ContainerStatus | None:
    """The entries there are, and those to come until the container ends. Its last status; None if it was removed."""
    watch = asyncio.create_task(ended(client, status.id))
    try:
        with _readable(status):
            async for entry in logs.read(status.log_path, tail=tail, follow=True, ended=watch.done, poll=POLL):
                printer.write(entry)
                printer.flush()
        return await watch
    finally:
        watch.cancel()


async def ended(client: cri.Client, id: str) -> values.ContainerStatus | None:
    """The status of a container once it does not run any more. A daemon that is away for a while may come back."""
    pause = FIRST
    while True:
        try:
            status = await client.container_status(id)
            if status.state is not values.ContainerState.RUNNING:
                return status
        except RopewalkError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            if error.kind is not Kind.UNAVAILABLE:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, LONGEST)


@contextlib.contextmanager
def _readable(status: values.ContainerStatus) -> Iterator[None]:
    """Errors of a log file, said in terms of its container."""
    name = status.metadata.name
    if not status.log_path:
        raise WrongState(f"container {name} has no log", hint="its pod was run without a directory for logs")
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"the log of container {name}, {status.log_path}, does not exist") from None
    except PermissionError:
        message = f"the log of container {name}, {status.log_path}, is not yours to read"
        raise RopewalkError(message, hint="run this as root", kind=Kind.DENIED) from None
