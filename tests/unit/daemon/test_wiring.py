"""Work in the background."""

from __future__ import annotations

import pytest

from ropewalk.daemon import wiring


async def test_work_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "RESTART", 0.0)
    attempts: list[int] = []

    async def work() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ZeroDivisionError

    await wiring.lasting("test", work)
    assert len(attempts) == 3
