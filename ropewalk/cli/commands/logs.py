"""Show what a container wrote."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.cli import entries
    from ropewalk.client import cri


@click.command(help=__doc__)
@click.argument("container")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", metavar="N", default="all", help="Only the last N entries, and what follows.")
@click.option("-t", "--timestamps", is_flag=True, help="Show times.")
@click.option("--since", metavar="TIME", default="", help="Only later entries: RFC 3339, or a span of time as 10m.")
@output.json_option
@endpoint.address_option
def command(container: str, follow: bool, tail: str, timestamps: bool, since: str, as_json: bool, address: str) -> None:
    """JSON: one object per entry and line."""
    from ropewalk.cli import entries

    if tail != "all" and not tail.isdecimal():
        raise click.BadParameter(f"{tail!r} is neither a number nor 'all'", param_hint="--tail")
    after = units.parse_moment(since, time.time()) if since else ""
    printer = entries.Printer(timestamps=timestamps, as_json=as_json, since=after)
    last = None if tail == "all" else int(tail)
    endpoint.call(address, lambda client: show(client, container, printer, follow=follow, tail=last))


async def show(client: cri.Client, name: str, printer: entries.Printer, *, follow: bool, tail: int | None) -> None:
    import asyncio

    from ropewalk.cli import entries, names

    container = names.find_container(name, *await asyncio.gather(client.containers(), client.pods()))
    status = await client.container_status(container.id)
    if follow:
        await entries.follow(client, status, printer, tail=tail)
    else:
        await entries.show(status, printer, tail=tail)
