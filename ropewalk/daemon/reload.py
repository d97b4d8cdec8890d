"""SIGHUP: the configuration is read again, and everything that changed takes effect, or nothing does.

A file that is wrong changes nothing. Neither does one with a key that needs a restart, whatever else it changes: the
daemon always runs with a configuration that somebody wrote, never with a mixture of two. The log says what became of
it, and so does `systemctl status`.

Command line and environment are those of the start; they win over files, as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from ropewalk.daemon import settings, systemd
from ropewalk.daemon.config import Config, Loaded
from ropewalk.errors import RopewalkError, WrongState

log = logging.getLogger(__name__)


class Subject(Protocol):
    """What has a configuration; a Daemon. `reconfigure` cannot fail: what it is given was checked before."""

    @property
    def config(self) -> Config: ...

    def reconfigure(self, config: Config, /) -> None: ...


class NeedsRestart(WrongState):
    """Keys that only a restart can change."""

    def __init__(self, changes: list[settings.Change]) -> None:
        fixed = [change for change in changes if not change.key.live]
        others = [change.key.name for change in changes if change.key.live]
        texts = [f"{change.key.name} ({_arrow(change)})" for change in fixed]
        waits = f"; {', '.join(others)} could change at once" if others else ""
        super().__init__(
            f"changes only with a restart: {', '.join(texts)}",
            hint=f"restart ropewalk, pods go on running{waits}",
        )


def plan(before: Config, after: Config) -> list[settings.Change]:
    """What a reload would change. Raises NeedsRestart if any of it cannot."""
    changes = settings.changes(before, after)
    if not all(change.key.live for change in changes):
        raise NeedsRestart(changes)
    return changes


def run(read: Callable[[], Loaded], daemon: Subject) -> None:
    """Reload, in one go: no call sees half of it. What is wrong is logged."""
    systemd.reloading()
    said = "failed"
    try:
        said = _reload(read, daemon)
    except RopewalkError as error:
        said = f"configuration not reloaded, nothing changed: {error}"
        log.error(said)
    finally:
        systemd.notify("READY=1", f"STATUS={said}")


def _reload(read: Callable[[], Loaded], daemon: Subject) -> str:
    """What happened. Raises RopewalkError, and has then changed nothing."""
    loaded = read()
    changes = plan(daemon.config, loaded.config)
    daemon.reconfigure(loaded.config)
    for warning in loaded.warnings:
        log.warning(warning)
    said = "configuration reloaded"
    changed = {change.key.name: _arrow(change) for change in changes}
    log.info(said, extra={"changed": changed, "files": loaded.files})
    return f"{said}, changed: {', '.join(changed) or 'nothing'}"


def _arrow(change: settings.Change) -> str:
    return f"{settings.toml(change.before)} -> {settings.toml(change.after)}"
