"""List runtime handlers, and whether they work on this node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output
from ropewalk.errors import Kind, RopewalkError

if TYPE_CHECKING:
    from ropewalk.client import admin, cri

HEADS = ["NAME", "DEFAULT", "WORKS", "VERSION", "EVIDENCE"]


@click.command(help=__doc__)
@output.json_option
@endpoint.address_option
def command(as_json: bool, address: str) -> None:
    """Another endpoint than Ropewalk says only what its handlers are called; the rest is unknown there."""
    found = endpoint.call(address, listed)
    if as_json:
        output.emit(found)
    else:
        words = {True: "yes", False: "no", None: "-"}
        output.table(
            HEADS,
            [
                [
                    runtime["name"] or "(default)",
                    words[runtime["default"]],
                    words[runtime["works"]],
                    runtime["version"],
                    "; ".join(text for text in (runtime["evidence"], runtime["advice"]) if text),
                ]
                for runtime in found
            ],
        )


async def listed(client: cri.Client) -> list[dict[str, Any]]:
    from ropewalk.client import admin

    try:
        async with admin.Client(client.address) as own:
            return [document(runtime) for runtime in await own.runtimes()]
    except RopewalkError as error:
        if error.kind is not Kind.UNSUPPORTED:
            raise
    status = await client.status()
    return [
        {
            "name": handler.name,
            "default": handler.name == "",
            "works": None,
            "version": "",
            "evidence": "",
            "advice": "",
        }
        for handler in status.runtime_handlers
    ]


def document(runtime: admin.Runtime) -> dict[str, Any]:
    return {
        "name": runtime.name,
        "default": runtime.default,
        "works": runtime.works,
        "version": runtime.version,
        "evidence": runtime.evidence,
        "advice": runtime.advice,
    }
