"""List runtime handlers, and whether they work on this node."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output
from ropewalk.errors import Kind, RopewalkError

if TYPE_CHECKING:
    from ropewalk.client import admin, cri, values

HEADS = ["NAME", "DEFAULT", "STATE", "BOUNDARY", "VERSION", "EVIDENCE"]


@click.command(help=__doc__)
@click.option("--probe", is_flag=True, help="Probe each one now, whatever is known of it.")
@output.json_option
@endpoint.address_option
def command(probe: bool, as_json: bool, address: str) -> None:
    found = endpoint.call(address, functools.partial(listed, probe=probe))
    if as_json:
        output.emit(found)
    else:
        words = {True: "yes", False: "no"}
        output.table(
            HEADS,
            [
                [
                    runtime["name"] or "(default)",
                    words[runtime["default"]],
                    runtime["state"],
                    runtime["boundary"],
                    runtime["version"],
                    "; ".join(text for text in (runtime["evidence"], runtime["advice"]) if text),
                ]
                for runtime in found
            ],
        )


async def listed(client: cri.Client, *, probe: bool) -> list[dict[str, Any]]:
    from ropewalk.client import admin

    try:
        async with admin.Client(client.address) as own:
            return [document(runtime) for runtime in await own.runtimes(probe=probe)]
    except RopewalkError as error:
        if error.kind is not Kind.UNSUPPORTED:
            raise
    return [document(runtime) for runtime in told(await client.version(), await client.status())]


def told(version: values.Version, status: values.Status) -> list[admin.Runtime]:
    """What the CRI says of an endpoint's handlers: names at best, and whether the default one is ready."""
    from ropewalk.client import admin

    ready = status.condition("RuntimeReady")
    known = [handler.name for handler in status.runtime_handlers] or [""]
    return [
        admin.Runtime(
            name=name,
            works=ready.status,
            level="works" if ready.status else "present",
            version=f"{version.runtime_name} {version.runtime_version}",
            evidence="" if ready.status else f"{ready.reason} {ready.message}",
            default=name == "",
        )
        for name in known
    ]


def document(runtime: admin.Runtime) -> dict[str, Any]:
    return {
        "name": runtime.name,
        "default": runtime.default,
        "works": runtime.works,
        "state": runtime.level,
        "boundary": runtime.boundary,
        "version": runtime.version,
        "evidence": runtime.evidence,
        "advice": runtime.advice,
    }
