"""List images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.client import values

NONE = "<none>"


@click.command(help=__doc__)
@click.argument("name", default="", metavar="[IMAGE]")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--digests", is_flag=True, help="Show digests too.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@output.json_option
@endpoint.address_option
def command(name: str, quiet: bool, digests: bool, no_trunc: bool, as_json: bool, address: str) -> None:
    found = endpoint.call(address, lambda client: client.images(name))
    found.sort(key=lambda image: image.repo_tags or image.repo_digests or [image.id])
    if as_json:
        output.emit([document(image) for image in found])
    elif quiet:
        for image in found:
            click.echo(units.short(image.id, whole=no_trunc))
    else:
        heads = ["REPOSITORY", "TAG", *(["DIGEST"] if digests else []), "IMAGE ID", "SIZE"]
        output.table(heads, [row for image in found for row in rows(image, digests=digests, whole=no_trunc)])


def document(image: values.Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "tags": image.repo_tags,
        "digests": image.repo_digests,
        "size": image.size,
        "user": image.username or ("" if image.uid is None else str(image.uid)),
        "pinned": image.pinned,
    }


def rows(image: values.Image, *, digests: bool, whole: bool) -> list[list[str]]:
    """One per tag; one for an image that has none."""
    by_repository: dict[str, str] = {}
    for name in image.repo_digests:
        repository, _, digest = name.partition("@")
        by_repository.setdefault(repository, digest)
    names = [split(tag) for tag in image.repo_tags] or [(repository, NONE) for repository in by_repository]
    last = [units.short(image.id, whole=whole), units.decimal(image.size)]
    return [
        [repository, tag, *([by_repository.get(repository, NONE)] if digests else []), *last]
        for repository, tag in names or [(NONE, NONE)]
    ]


def split(reference: str) -> tuple[str, str]:
    """Repository and tag; a registry's port is none."""
    repository, _, tag = reference.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (reference, NONE)
