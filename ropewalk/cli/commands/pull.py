"""Pull images from a registry."""

from __future__ import annotations

import sys

import click

from ropewalk.cli import endpoint, output
from ropewalk.errors import Invalid


@click.command(help=__doc__)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--creds", metavar="USER[:PASSWORD]", default="", help="Without :PASSWORD it is asked for, or read from stdin."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@output.json_option
@endpoint.address_option
def command(images: tuple[str, ...], creds: str, quiet: bool, as_json: bool, address: str) -> None:
    from ropewalk.cli import progress
    from ropewalk.client import cri
    from ropewalk.spec.image import AuthConfig

    auth = AuthConfig(*credentials(creds)) if creds else None

    async def work(client: cri.Client) -> tuple[list[dict[str, str]], int]:
        async def one(image: str) -> dict[str, str]:
            id = await progress.pull(client, image, auth, quiet=quiet)
            if not as_json:
                click.echo(id)
            return {"image": image, "id": id}

        return await endpoint.each(images, one, at_once=1)

    done, code = endpoint.call(address, work)
    if as_json:
        output.emit(done)
    sys.exit(code)


def credentials(text: str) -> tuple[str, str]:
    """User and password; one that is not on the command line is visible to nobody."""
    user, given, password = text.partition(":")
    if not user:
        raise Invalid("--creds has no user", hint="write USER or USER:PASSWORD")
    if not given and sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, err=True)
    elif not given:
        password = sys.stdin.readline().rstrip("\n")
    return user, password
