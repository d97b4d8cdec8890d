"""A pull and, on a terminal, a bar per layer: bytes as Ropewalk's workers count them.

Other endpoints do not tell them; there a line with the time since the start has to do. In a pipe there is nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

from ropewalk.cli import units
from ropewalk.client import admin
from ropewalk.errors import RopewalkError
from ropewalk.spec.image import AuthConfig, ImageSpec

if TYPE_CHECKING:
    from rich import progress

    from ropewalk.client import cri


async def pull(client: cri.Client, reference: str, auth: AuthConfig | None = None, *, quiet: bool = False) -> str:
    """The id of the image. Progress goes to stderr, so that stdout holds nothing but results."""
    if quiet or not sys.stderr.isatty():
        return await client.pull(ImageSpec(image=reference), auth)
    with _bars() as bars:
        shown = Shown(bars, reference)
        async with admin.Client(client.address) as watched, asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(watched, reference, shown))
            try:
                id = await client.pull(ImageSpec(image=reference), auth)
                shown.end()
            except RopewalkError as error:
                failure = error
            else:
                return id
            finally:
                watch.cancel()
    raise failure


async def _watch(watched: admin.Client, reference: str, shown: Shown) -> None:
    with contextlib.suppress(RopewalkError):  # not Ropewalk, or it went away, which the pull will say
        async for report in watched.watch_pulls(reference):
            shown.update(report)


def _bars() -> progress.Progress:
    from rich import console, progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        progress.TextColumn("{task.fields[bytes]}"),
        progress.TextColumn("{task.fields[state]}"),
        progress.TimeElapsedColumn(),
        console=console.Console(stderr=True),
    )


class Shown:
    """The bars of one pull: one for the whole, and as soon as they are told one per layer."""

    def __init__(self, bars: progress.Progress, reference: str) -> None:
        self._bars = bars
        self._whole = bars.add_task(_plain(reference), total=None, bytes="", state="")
        self._layers: dict[str, progress.TaskID] = {}

    def update(self, report: admin.PullProgress) -> None:
        for layer in report.layers:
            if layer.digest not in self._layers:
                label = f"  {layer.digest.partition(':')[2][:12]}"
                self._layers[layer.digest] = self._bars.add_task(label, total=layer.total, bytes="", state="")
            done = layer.state in ("done", "unpacked")
            self._set(self._layers[layer.digest], layer.total if done else layer.fetched, layer.total, layer.state)
        if report.layers:
            tasks = [task for task in self._bars.tasks if task.id in self._layers.values()]
            self._set(
                self._whole, sum(int(task.completed) for task in tasks), sum(int(task.total or 0) for task in tasks)
            )

    def end(self) -> None:
        """The pull succeeded, whether or not the last report came."""
        for task in self._bars.tasks:
            if task.total is None:
                self._bars.update(task.id, total=1, completed=1)
            else:
                self._set(task.id, int(task.total), int(task.total), "" if task.id == self._whole else "done")

    def _set(self, task: progress.TaskID, completed: int, total: int, state: str = "") -> None:
        text = f"{units.decimal(completed)}/{units.decimal(total)}"
        self._bars.update(task, total=total, completed=completed, bytes=text, state=state)


def _plain(text: str) -> str:
    """rich reads brackets in a description as markup."""
    return text.replace("[", r"\[")
