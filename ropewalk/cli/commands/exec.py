"""Run a command in a container."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, inside, output
from ropewalk.errors import RopewalkError, Unsupported

if TYPE_CHECKING:
    from ropewalk.client import cri, values

MOST = (16 << 20) - (64 << 10)  # bytes of both streams; an endpoint drops the rest and does not say so


@click.command(
    cls=inside.Command, help=__doc__, context_settings={"allow_interspersed_args": False}, epilog=inside.HELP
)
@click.argument("container")
@click.argument("arguments", nargs=-1, required=True, metavar="COMMAND...")
@click.option(
    "--timeout", type=click.IntRange(0), default=0, metavar="SECONDS", help="Kill it after that long; 0: never."
)
@click.option("-i", "--interactive", is_flag=True, help="Not built yet.")
@click.option("-t", "--tty", is_flag=True, help="Not built yet.")
@output.json_option
@endpoint.address_option
def command(
    container: str,
    arguments: tuple[str, ...],
    timeout: int,
    interactive: bool,
    tty: bool,
    as_json: bool,
    address: str,
) -> None:
    if interactive or tty:
        raise Unsupported("exec with -i or -t is not built yet", hint="without them it runs the command to its end")
    result = endpoint.call(address, lambda client: run(client, container, list(arguments), timeout))
    if as_json:
        output.emit(output.document(result))
    else:
        for file, data in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
            file.buffer.write(data)
            file.flush()
    if len(result.stdout) + len(result.stderr) >= MOST:
        text = f"the output is cut after {MOST} bytes, as many as the CRI's ExecSync brings"
        output.complain(RopewalkError(text, hint="write to a file of a volume"))
    sys.exit(result.exit_code)


async def run(client: cri.Client, name: str, arguments: list[str], timeout: int) -> values.ExecResult:
    import asyncio

    from ropewalk.cli import names

    found = names.find_container(name, *await asyncio.gather(client.containers(), client.pods()))
    with inside.execution():
        return await client.exec_sync(found.id, arguments, timeout=timeout)
