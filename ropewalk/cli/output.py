"""What commands print: tables on a terminal, aligned columns in a pipe, JSON where it is asked for.

rich is imported for a terminal only.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ropewalk.cli import units
from ropewalk.errors import RopewalkError

F = TypeVar("F", bound=Callable[..., Any])

LAST = 20  # characters that a table's last column must have room for, to be folded there


def json_option(function: F) -> F:
    """--json: the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def emit(value: Any, *, line: bool = False) -> None:
    """`value` as JSON; `line`: on one, for what prints many."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if line else 2))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their heads."""
    shown = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich import console

        screen = console.Console()
        last = max(len(row[-1]) for row in (heads, *shown))
        if sum(widths([heads, *shown])) + min(last, LAST) <= screen.width:
            screen.print(drawn(heads, shown))
            return
    click.echo(aligned([heads, *shown]))  # on a narrow terminal the lines wrap, as docker's do, and ids stay whole


def drawn(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A rich table without lines, as docker's. Only the last column is folded if it is too long; none is cut."""
    from rich import table, text

    grid = table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at, head in enumerate(heads):
        grid.add_column(head, overflow="fold", no_wrap=at < len(heads) - 1)
    for row in rows:
        grid.add_row(*(text.Text(cell) for cell in row))  # Text: a name with brackets is no markup
    return grid


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns at least two spaces apart, so that a cell may hold single ones."""
    to = widths(rows)
    return "\n".join("".join([*(c.ljust(w) for c, w in zip(row, to, strict=False)), row[-1]]) for row in rows)


def widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """What each column but the last takes, with the two spaces behind it."""
    return [max(len(row[at]) for row in rows) + 2 for at in range(len(rows[0]) - 1)]


def printable(text: str) -> str:
    """Names come from other people: a control sequence in one must not reach the terminal. An empty cell is "-"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) or "-"


def complain(error: Exception) -> None:
    """One line on stderr. What a runtime said may be an image author's words."""
    click.echo(printable(f"ropewalk: {error}"), err=True)


def unwritable(error: OSError) -> bool:
    """Whether the error is that nothing can be written to stdout or stderr any more, as on a full disk; then it is
    said, if somebody can hear it."""
    if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return False
    with contextlib.suppress(OSError):
        complain(RopewalkError(f"the output cannot be written: {error.strerror}"))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer would be an error once more
    return True


def document(value: Any) -> Any:
    """A struct of client/ as JSON has it: the CRI's field names, enumerations by name, times in RFC 3339."""
    fields = getattr(value, "__struct_fields__", None)
    if fields is not None:
        return {name: _field(name, getattr(value, name)) for name in fields}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [document(item) for item in value]
    if isinstance(value, dict):
        return {str(key): document(item) for key, item in value.items()}
    return value


def _field(name: str, value: Any) -> Any:
    return units.moment(value) if name.endswith("_at") or name == "timestamp" else document(value)
