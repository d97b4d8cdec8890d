"""From a command's flags to an open client: where the endpoint is, whether anybody answers, what Ctrl-C means."""

from __future__ import annotations

import errno
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ropewalk.cli import exits, output
from ropewalk.errors import Invalid, Kind, RopewalkError

if TYPE_CHECKING:
    from ropewalk.client import cri

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

AT_ONCE = 16  # calls to the endpoint
CONNECT = 5.0  # seconds; connecting to a unix socket waits only while its queue is full
HELP = "Unix socket of the CRI endpoint; $ROPEWALK_ADDRESS, or /run/ropewalk/ropewalk.sock."


def address_option(function: F) -> F:
    """--address: the parameter `address`."""
    return click.option("--address", metavar="SOCKET", default="", help=HELP)(function)


def call(address: str, work: Callable[[cri.Client], Awaitable[T]]) -> T:
    """What `work` returns, given a client of the endpoint at `address` ("": the usual one)."""
    probe(address)
    import asyncio

    from ropewalk.client import cri

    async def session() -> T:
        async with cri.Client(address) as client:
            return await work(client)

    try:
        return asyncio.run(session())
    except KeyboardInterrupt:
        sys.exit(exits.EXITS[Kind.CANCELLED])  # quietly: it is how `logs -f` and `stats` are left
    except UnicodeEncodeError as error:
        raise Invalid(f"{error.object!r} is not UTF-8, which the CRI asks for") from None
    except RopewalkError as error:
        if error.kind is Kind.UNSUPPORTED and "unknown service" in error.message:
            raise RopewalkError(error.message, hint="this endpoint does not serve the CRI", kind=error.kind) from None
        raise


def probe(address: str) -> None:
    """Connect once without gRPC, whose texts do not say what is wrong. Raises UNAVAILABLE, DENIED or INVALID."""
    import socket

    from ropewalk.client import endpoint

    path = endpoint.address(address).removeprefix("unix://").removeprefix("unix:")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONNECT)
        try:
            connection.connect(path)
        except OSError as error:
            raise refused(path, error) from None


def refused(path: str, error: OSError) -> RopewalkError:
    """Why nobody answers, and what to do."""
    hint = "start `ropewalk serve`, or name another endpoint with --address or ROPEWALK_ADDRESS"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return RopewalkError(f"no socket {path}", hint=hint, kind=Kind.UNAVAILABLE)
    if error.errno == errno.ECONNREFUSED:
        return RopewalkError(f"nobody answers on {path}", hint=hint, kind=Kind.UNAVAILABLE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return RopewalkError(f"you may not use {path}", hint="run this as root", kind=Kind.DENIED)
    text = error.strerror or str(error) or "no answer"
    return RopewalkError(f"cannot connect to {path}: {text}", hint=hint, kind=Kind.UNAVAILABLE)


async def each(
    names: Iterable[str], act: Callable[[str], Awaitable[T]], *, at_once: int = AT_ONCE
) -> tuple[list[T], int]:
    """What `act` returned for every name (`at_once` at a time), and the exit code. One that fails does not stop the
    others; each failure is a line on stderr, and the first one's kind makes the exit code."""
    import asyncio

    slots = asyncio.Semaphore(at_once)
    codes: list[int] = []
    results: list[T] = []

    async def one(name: str) -> None:
        async with slots:
            try:
                results.append(await act(name))
            except RopewalkError as error:
                codes.append(exits.EXITS[error.kind])
                output.complain(error)

    await asyncio.gather(*(one(name) for name in dict.fromkeys(names)))
    return results, codes[0] if codes else 0


async def answers(ids: Iterable[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """What `ask` returned for each id (AT_ONCE at a time); without those that are gone meanwhile."""
    import asyncio

    slots = asyncio.Semaphore(AT_ONCE)
    found: dict[str, T] = {}

    async def one(id: str) -> None:
        async with slots:
            try:
                found[id] = await ask(id)
            except RopewalkError as error:
                if error.kind is not Kind.NOT_FOUND:
                    raise

    await asyncio.gather(*(one(id) for id in ids))
    return found
