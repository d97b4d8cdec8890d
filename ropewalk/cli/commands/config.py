"""Show the daemon's configuration: every key with its default, what is in effect, or what is wrong."""

from __future__ import annotations

import sys

import click


@click.group(help=__doc__)
def command() -> None:
    pass


@command.command()
def default() -> None:
    """Every key with its default and what it means, as a file to edit."""
    from ropewalk.daemon import config

    click.echo(config.defaults(), nl=False)


@command.command()
@click.option("--config", "file", metavar="FILE", default="", help="Instead of /etc/ropewalk/config.toml.")
def dump(file: str) -> None:
    """What is in effect: defaults, files and environment together."""
    from ropewalk.daemon import config

    loaded = config.load(file)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(config.text(loaded.config), nl=False)


@command.command()
@click.argument("file", default="")
def check(file: str) -> None:
    """Look for unknown keys and wrong values in FILE (/etc/ropewalk/config.toml) and its conf.d; exit 2 if any."""
    from ropewalk.daemon import config

    loaded = config.load(file)
    for warning in loaded.warnings:
        click.echo(warning, err=True)
    if loaded.warnings:
        sys.exit(2)
    click.echo(f"{', '.join(loaded.files) or 'no configuration file; defaults'}: right")
