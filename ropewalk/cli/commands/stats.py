"""Show what containers use: CPU, memory, network, disk, processes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.cli import usage
    from ropewalk.client import cri

HEADS = ["CONTAINER ID", "NAME", "POD", "CPU %", "MEM / LIMIT", "NET RX / TX", "WRITTEN", "PIDS"]
FIRST = 0.5  # seconds between the two looks that give the first CPU %
CLEAR = "\x1b[H\x1b[J"


@click.command(help=__doc__)
@click.argument("containers", nargs=-1, metavar="[CONTAINER...]")
@click.option("-a", "--all", "every", is_flag=True, help="Also containers that do not run.")
@click.option("--no-stream", is_flag=True, help="Once, not again and again.")
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, metavar="SECONDS",
              help="Between two looks.")  # fmt: skip
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@output.json_option
@endpoint.address_option
def command(
    containers: tuple[str, ...],
    every: bool,
    no_stream: bool,
    interval: float,
    no_trunc: bool,
    as_json: bool,
    address: str,
) -> None:
    """Network and processes are the pod's, shown with each of its containers."""

    async def work(client: cri.Client) -> None:
        import asyncio

        from ropewalk.cli import usage

        before = await usage.look(client, containers, every=every)
        pause = FIRST
        while True:
            if before.rates_missing or not no_stream:
                await asyncio.sleep(pause)
            now = await usage.look(client, containers, every=every)
            show(usage.used(before, now), whole=no_trunc, as_json=as_json, again=not no_stream)
            if no_stream:
                return
            before, pause = now, interval

    endpoint.call(address, work)


def show(used: list[usage.Used], *, whole: bool, as_json: bool, again: bool) -> None:
    if as_json:
        output.emit([document(item) for item in used], line=again)
    else:
        if again and sys.stdout.isatty():
            click.echo(CLEAR, nl=False)
        output.table(HEADS, [row(item, whole=whole) for item in used])
    sys.stdout.flush()


def document(item: usage.Used) -> dict[str, Any]:
    """null is unknown."""
    return {
        "id": item.id,
        "name": item.name,
        "pod_id": item.pod_id,
        "pod": item.pod,
        "cpu_percent": None if item.cpu is None else round(item.cpu * 100, 3),
        "memory_bytes": item.memory,
        "memory_limit_bytes": item.memory_limit,
        "network_rx_bytes": item.received,
        "network_tx_bytes": item.sent,
        "written_bytes": item.written,
        "pids": item.processes,
    }


def row(item: usage.Used, *, whole: bool) -> list[str]:
    return [
        units.short(item.id, whole=whole),
        item.name,
        item.pod,
        "-" if item.cpu is None else f"{item.cpu:.2%}",
        f"{units.binary(item.memory)} / {units.binary(item.memory_limit)}",
        f"{units.decimal(item.received)} / {units.decimal(item.sent)}",
        units.decimal(item.written),
        "-" if item.processes is None else str(item.processes),
    ]
