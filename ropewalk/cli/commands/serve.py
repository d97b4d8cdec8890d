"""Run the daemon that serves the Kubernetes Container Runtime Interface."""

from __future__ import annotations

from typing import Any

import click


@click.command(help=__doc__)
@click.option("--config", "file", metavar="FILE", default="", help="Instead of /etc/ropewalk/config.toml.")
@click.option("--root", metavar="DIR", help="Directory of images, layers and records.")
@click.option("--state", metavar="DIR", help="Directory of what lives as long as the node runs.")
@click.option("--address", metavar="SOCKET", help="Unix socket to serve on; ropewalk.sock in the state directory.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="As log.level.")
@click.option("--set", "assigned", multiple=True, metavar="KEY=VALUE", help="Any setting of `ropewalk config default`.")
def command(file: str, assigned: tuple[str, ...], log_level: str | None, **places: str | None) -> None:
    from ropewalk.daemon import main

    given: dict[str, Any] = {name: place for name, place in places.items() if place is not None}
    if log_level is not None:
        given["log"] = {"level": log_level}
    main.run(file, given, assigned)
