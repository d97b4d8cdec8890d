"""The command group: verbs are files in commands/, loaded when they are called.

Help texts come from the files' first docstring lines, read and not imported, so `ropewalk --help` costs nothing.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from ropewalk.cli import exits, output
from ropewalk.errors import Kind, RopewalkError
from ropewalk.version import VERSION

COMMANDS = os.path.join(os.path.dirname(__file__), "commands")


class Verbs(click.Group):
    """A group whose commands are the modules of ropewalk.cli.commands; each has a click command named `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        files = sorted(os.listdir(COMMANDS))
        return [file[:-3].replace("_", "-") for file in files if file.endswith(".py") and not file.startswith("_")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"ropewalk.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, summary(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            import difflib  # only the misspelt pay for it

            near = difflib.get_close_matches(args[0], known, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)


def summary(verb: str) -> str:
    """The first docstring line of a command's file."""
    with open(os.path.join(COMMANDS, f"{verb.replace('-', '_')}.py"), encoding="utf-8") as file:
        return file.readline().strip().strip('"').rstrip(".")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="ropewalk", message="%(prog)s %(version)s")
def ropewalk() -> None:
    """Run pods and containers, and the daemon that serves the Kubernetes Container Runtime Interface."""


def fill_closed_streams() -> None:
    """Nothing that is opened later (a socket, the daemon's database) gets the number of a standard stream that was
    closed: whoever writes there would write into it."""
    for name in ("stdin", "stdout", "stderr"):  # in this order: each one's number is the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 (for as long as we run)


def main() -> None:
    """The entry point: errors are one line on stderr and an exit code by kind."""
    fill_closed_streams()
    try:
        ropewalk.main(prog_name="ropewalk")
    except RopewalkError as error:
        output.complain(error)
        sys.exit(exits.EXITS[error.kind])
    except OSError as error:
        if not output.unwritable(error):
            raise
        sys.exit(exits.EXITS[Kind.INTERNAL])
