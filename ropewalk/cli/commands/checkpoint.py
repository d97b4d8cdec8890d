"""Save a running container to a file, from which it can go on."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, output

if TYPE_CHECKING:
    from ropewalk.client import cri, values

HELP = """Save a running container to a file, from which it can go on.

The container runs on. `ropewalk run --name NAME --runtime HANDLER /PATH/FILE` goes on from there, NAME being the
container's, once the first one is removed or on another node with the same image; the file must lie where the daemon
restores from. gVisor can (builds since 2024), if the container is the only one of its pod.
"""


@click.command(help=HELP)
@click.argument("container")
@click.option("-e", "--export", "file", type=click.Path(), default="", metavar="FILE",
              help="Where to; checkpoint-NAME-TIME.tar here.")  # fmt: skip
@click.option("--timeout", type=click.IntRange(0), default=0, metavar="SECONDS",
              help="Give up after that long; 0: the node's default.")  # fmt: skip
@output.json_option
@endpoint.address_option
def command(container: str, file: str, timeout: int, as_json: bool, address: str) -> None:
    found, path = endpoint.call(address, lambda client: save(client, container, file, timeout))
    if as_json:
        output.emit({"id": found.id, "name": found.metadata.name, "file": path})
    else:
        click.echo(path)


async def save(client: cri.Client, name: str, file: str, timeout: int) -> tuple[values.Container, str]:
    """The container and the file, which the daemon writes: an absolute path of its node."""
    import asyncio

    from ropewalk.cli import names

    found = names.find_container(name, *await asyncio.gather(client.containers(), client.pods()))
    path = os.path.abspath(file or f"checkpoint-{found.metadata.name}-{time.strftime('%Y-%m-%dT%H-%M-%S')}.tar")
    await client.checkpoint(found.id, path, timeout=timeout)
    return found, path
