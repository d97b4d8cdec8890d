"""Remove images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, output
from ropewalk.errors import NotFound, WrongState

if TYPE_CHECKING:
    from ropewalk.client import cri, values


HELP = """Remove images.

An image goes with all its names, whichever is given: that is what the CRI's RemoveImage does.
"""


@click.command(help=HELP)
@click.argument("images", nargs=-1, metavar="[IMAGE...]")
@click.option("-a", "--all", "every", is_flag=True, help="Every image.")
@click.option("--prune", is_flag=True, help="Every image that no container uses.")
@click.option("-f", "--force", is_flag=True, help="Also images that containers use.")
@output.json_option
@endpoint.address_option
def command(images: tuple[str, ...], every: bool, prune: bool, force: bool, as_json: bool, address: str) -> None:
    if not (images or every or prune):
        raise click.UsageError("name an image, or use --all or --prune")

    async def work(client: cri.Client) -> tuple[list[dict[str, str]], int]:
        users = await client.containers()

        async def one(name: str) -> dict[str, str]:
            id = await remove(client, name, [] if force else users)
            if not as_json:
                click.echo(name)
            return {"image": name, "id": id}

        chosen = list(images)
        if every or prune:
            found = [image for image in await client.images() if not image.pinned]
            chosen += [image.id for image in found if every or not uses(image, users)]
        return await endpoint.each(chosen, one)

    done, code = endpoint.call(address, work)
    if as_json:
        output.emit(done)
    sys.exit(code)


async def remove(client: cri.Client, name: str, users: Sequence[values.Container]) -> str:
    """The id of the image that `name` meant. NotFound: the CRI's own answer would be success."""
    image = await client.image(name)
    if image is None:
        raise NotFound(f"no image {name!r}", hint="`ropewalk images` lists them")
    using = uses(image, users)
    if using:
        raise WrongState(f"image {name} is used by {', '.join(using[:5])}", hint="remove that first, or use --force")
    by_id = image.id.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))
    await client.remove_image(image.id if by_id else name)
    return image.id


def uses(image: values.Image, containers: Sequence[values.Container]) -> list[str]:
    """The containers made from the image."""
    known = {image.id, *image.repo_digests}
    return [f"{c.metadata.name} ({c.id[:12]})" for c in containers if known & {c.image_id, c.image_ref, c.image.image}]
