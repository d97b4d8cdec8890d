from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.state.database import Database
from ropewalk.storage import leases
from ropewalk.storage.leases import Leases


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(str(tmp_path / "state.db"))
    yield database
    database.close()


def test_a_lease_holds_what_was_added(database: Database) -> None:
    held = Leases(database)
    held.hold("pull", digests=["a"])
    held.hold("pull", digests=["b"], snapshots=["s"])
    held.hold("pull")
    (lease,) = held.live()
    assert (lease.id, lease.digests, lease.snapshots) == ("pull", frozenset("ab"), frozenset("s"))


def test_a_released_lease_is_gone(database: Database) -> None:
    held = Leases(database)
    held.hold("pull", digests=["a"])
    held.release("pull")
    held.release("pull")
    assert held.live() == []
    assert Leases(database).live() == []


def test_a_lease_is_gone_with_its_last_holder(database: Database) -> None:
    """A pull that was cancelled is still giving up while the next one of the same image holds the lease."""
    held = Leases(database)
    held.hold("pull", digests=["a"])
    held.hold("pull", digests=["b"])
    held.release("pull")
    assert [lease.digests for lease in held.live()] == [{"a", "b"}]
    held.release("pull")
    assert held.live() == []


def test_a_killed_daemons_lease_holds_for_a_while(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    Leases(database).hold("pull", digests=["a"])
    after = Leases(database)
    assert [lease.digests for lease in after.live()] == [{"a"}]
    monkeypatch.setattr(time, "time", lambda: float(2**31 + leases.ORPHANED))
    assert after.live() == []
    assert database.rows("leases") == []


def test_a_lease_of_this_process_does_not_expire(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Leases(database)
    held.hold("pull", digests=["a"])
    monkeypatch.setattr(time, "time", lambda: float(2**31))
    assert len(held.live()) == 1


def test_a_repeated_pull_takes_its_lease_over(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    Leases(database).hold("pull", digests=["a"])
    after = Leases(database)
    after.hold("pull", digests=["b"])
    monkeypatch.setattr(time, "time", lambda: float(2**31))
    assert [lease.digests for lease in after.live()] == [{"a", "b"}]
