"""Exit codes of `run` and `exec`: what ran inside decides; from 125 on they speak of us, as docker's do.

125  Ropewalk, the endpoint or the request failed, or the usage is wrong
126  the command is there and cannot be executed
127  there is no such command
"""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator
from typing import Any

import click

from ropewalk.cli import output
from ropewalk.errors import RopewalkError

FAILED, NOT_EXECUTABLE, NO_COMMAND = 125, 126, 127
HELP = "Exits with the command's code; 125: Ropewalk failed, 126: the command cannot be executed, 127: there is none."
# What crun and runc, youki, and gVisor say when the program cannot be executed. The CRI has no field for it.
_NO_COMMAND = re.compile(
    r"executable file .*not found|exec: \".*\": (stat .*: )?no such file"
    r"|executable '.*' not found in \$PATH"
    r"|error finding executable|failed to load .*: no such file",
    re.DOTALL,
)
_NOT_EXECUTABLE = re.compile(
    r"open executable|exec format error|exec: \".*\": (permission denied|is a directory)"
    r"|executable '.*' does not have correct permissions"
    r"|failed to load .*: permission denied",
    re.DOTALL,
)


class NotExecuted(RopewalkError):
    """The command itself could not be executed; `code` says how."""

    def __init__(self, error: RopewalkError, code: int) -> None:
        super().__init__(error.message, hint=error.hint, kind=error.kind)
        self.code = code


@contextlib.contextmanager
def exits() -> Iterator[None]:
    """An error inside is a line on stderr and one of the codes above."""
    try:
        yield
    except click.UsageError as error:
        error.show()
        sys.exit(FAILED)  # click's own code is 2, which the command may return as well
    except RopewalkError as error:
        output.complain(error)
        sys.exit(error.code if isinstance(error, NotExecuted) else FAILED)
    except OSError as error:
        if error.errno == errno.EPIPE or not output.unwritable(error):
            raise
        sys.exit(FAILED)


class Command(click.Command):
    """One that returns another one's exit code: whatever fails on our side, the usage too, has one of those above."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with exits():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with exits():
            return super().invoke(ctx)


@contextlib.contextmanager
def execution() -> Iterator[None]:
    """Around the call that executes a command: an error that is the command's own becomes NotExecuted."""
    try:
        yield
    except RopewalkError as error:
        code = classify(error.message)
        raise (error if code == FAILED else NotExecuted(error, code)) from None


def classify(text: str) -> int:
    """The code for a runtime's message."""
    if _NO_COMMAND.search(text):
        return NO_COMMAND
    return NOT_EXECUTABLE if _NOT_EXECUTABLE.search(text) else FAILED
