"""How a daemon ends."""

from __future__ import annotations

from typing import cast

import pytest

from ropewalk.daemon import main, wiring
from ropewalk.errors import Invalid


class Daemon:
    """One whose node has no systemctl, and whose disk is broken."""

    def __init__(self) -> None:
        self.closed = False

    async def end_pods(self) -> None:
        raise FileNotFoundError("systemctl")

    async def close(self) -> None:
        self.closed = True
        raise OSError("disk I/O error")


def test_who_may_not_make_the_sockets_directory_is_told() -> None:
    with pytest.raises(Invalid, match=r"cannot make the directory /proc/x: No such file or directory; are you root\?"):
        main.make_place("/proc/x/ropewalk.sock")


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
