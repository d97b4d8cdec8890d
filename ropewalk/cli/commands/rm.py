"""Remove containers and pods."""

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
@click.option("-f", "--force", is_flag=True, help="Kill what runs.")
@output.json_option
@endpoint.address_option
def command(targets: tuple[str, ...], every: bool, force: bool, as_json: bool, address: str) -> None:
    if not (targets or every):
        raise click.UsageError("name a container or pod, or use --all")
    from ropewalk.cli import lifecycle

    async def remove(client: cri.Client, target: lifecycle.Target) -> None:
        if isinstance(target, lifecycle.Container):
            await lifecycle.remove_container(client, target, force=force)
        else:
            await lifecycle.remove_pod(client, target, force=force)

    done, code = endpoint.call(
        address, lambda client: lifecycle.on_targets(client, targets, remove, every=every, quiet=as_json)
    )
    if as_json:
        output.emit(done)
    sys.exit(code)
