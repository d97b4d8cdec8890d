"""How a daemon ends."""

from __future__ import annotations

from typing import cast

import pytest

from ropewalk.daemon import main, wiring


class Daemon:
    """One whose node has no systemctl, and whose disk is broken."""

    def __init__(self) -> None:
        self.closed = False

    async def end_pods(self) -> None:
        raise FileNotFoundError("systemctl")

    async def close(self) -> None:
        self.closed = True
        raise OSError("disk I/O error")


async def test_what_fails_at_the_end_is_said_and_keeps_nothing_from_being_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon = Daemon()
    await main.finish(cast(wiring.Daemon, daemon))
    assert daemon.closed
    assert [(record.__dict__["work"], record.__dict__["error"]) for record in caplog.records] == [
        ("end_pods", "systemctl"),
        ("close", "disk I/O error"),
    ]
