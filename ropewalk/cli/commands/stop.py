"""Stop containers and pods."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, output

if TYPE_CHECKING:
    from ropewalk.client import cri


@click.command(help=__doc__)
@click.argument("targets", nargs=-1, metavar="[CONTAINER|POD...]")
@click.option("-a", "--all", "every", is_flag=True, help="Every pod.")
@click.option("-t", "--timeout", "--time", type=click.IntRange(0), default=10, show_default=True, metavar="SECONDS",
              help="From the stop signal to SIGKILL.")  # fmt: skip
@output.json_option
@endpoint.address_option
def command(targets: tuple[str, ...], every: bool, timeout: int, as_json: bool, address: str) -> None:
    if not (targets or every):
        raise click.UsageError("name a container or pod, or use --all")
    from ropewalk.cli import lifecycle

    async def stop(client: cri.Client, target: lifecycle.Target) -> None:
        if isinstance(target, lifecycle.Container):
            await client.stop(target.id, timeout)
        else:
            await lifecycle.stop_pod(client, target.id, timeout)

    done, code = endpoint.call(
        address, lambda client: lifecycle.on_targets(client, targets, stop, every=every, quiet=as_json)
    )
    if as_json:
        output.emit(done)
    sys.exit(code)
