"""Show all that an endpoint says of containers, pods and images, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output
from ropewalk.errors import Kind, NotFound, RopewalkError

if TYPE_CHECKING:
    from ropewalk.client import cri

KINDS = ("container", "pod", "image")


@click.command(help=__doc__)
@click.argument("targets", nargs=-1, required=True, metavar="CONTAINER|POD|IMAGE...")
@click.option("--type", "kind", type=click.Choice(KINDS), help="Only a thing of this kind.")
@output.json_option
@endpoint.address_option
def command(targets: tuple[str, ...], kind: str | None, as_json: bool, address: str) -> None:
    """An array of objects with kind, status (the CRI's fields), info (what the endpoint adds); containers have pod,
    their pod's status. --json changes nothing."""
    kinds = [kind] if kind else list(KINDS)

    async def work(client: cri.Client) -> tuple[list[dict[str, Any]], int]:
        return await endpoint.each(targets, lambda name: inspected(client, name, kinds))

    done, code = endpoint.call(address, work)
    output.emit(done)
    sys.exit(code)


async def inspected(client: cri.Client, name: str, kinds: list[str]) -> dict[str, Any]:
    """The first kind that has such a thing. A name of both a container and a pod is the container, as with docker."""
    looks: dict[str, Callable[[cri.Client, str], Awaitable[dict[str, Any]]]] = {
        "container": container,
        "pod": pod,
        "image": image,
    }
    for kind in kinds:
        try:
            return {"kind": kind, **await looks[kind](client, name)}
        except RopewalkError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
    raise NotFound(f"no {' or '.join(kinds)} {name!r}")


async def container(client: cri.Client, name: str) -> dict[str, Any]:
    from ropewalk.cli import names

    pods = await client.pods()
    found = names.find_container(name, await client.containers(), pods)
    if any(pod.id == name for pod in pods):
        raise NotFound(f"{name} is a pod")
    status, info = await client.inspect(found.id, verbose=True)
    pod = await client.pod_status(found.pod_sandbox_id)
    return {"status": output.document(status), "info": parsed(info), "pod": output.document(pod)}


async def pod(client: cri.Client, name: str) -> dict[str, Any]:
    from ropewalk.cli import names

    status, info = await client.inspect_pod(names.find_pod(name, await client.pods()).id, verbose=True)
    return {"status": output.document(status), "info": parsed(info)}


async def image(client: cri.Client, name: str) -> dict[str, Any]:
    found = await client.image(name)
    if found is None:
        raise NotFound(f"no image {name!r}")
    return {"status": output.document(found), "info": {}}


def parsed(info: dict[str, str]) -> dict[str, Any]:
    """The texts that are JSON as what they say; the others as they are."""

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {key: value(text) for key, text in info.items()}
