"""State on a file system that is really full: a tmpfs of four megabytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount
from ropewalk.state.database import RESERVE, Database
from ropewalk.state.store import Table


class Thing(Struct, frozen=True):
    id: str
    value: str = ""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    mount.tmpfs(str(tmp_path), size=4 << 20)
    try:
        yield tmp_path
    finally:
        mount.umount_all(str(tmp_path))


def fill(directory: Path) -> Path:
    """Take the last byte."""
    ballast = directory / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return ballast


def kind_of(attempt: Callable[[], object]) -> Kind | None:
    """The kind of its failure; None if it worked."""
    try:
        attempt()
    except RopewalkError as error:
        return error.kind
    return None


def test_a_full_disk_has_its_kind_and_nothing_is_lost(small: Path) -> None:
    database = Database(str(small / "state.db"))
    things = Table(database, "pods", Thing, noun="thing")
    things.add(Thing("a", "before"))
    ballast = fill(small)
    kinds = [kind_of(lambda n=n: things.add(Thing(f"new{n}", "x" * 5000))) for n in range(100)]  # type: ignore[misc]
    assert set(kinds[10:]) == {Kind.EXHAUSTED}  # what fits into the log's last page may still be written
    things.apply("a", lambda thing: Thing(thing.id, "exited"), derivable=True)
    assert things["a"].value == "exited"
    things.remove("a")
    assert "a" not in things
    ballast.unlink()
    things.flush()
    things.add(Thing("after"))
    found = {thing.id for thing in things}
    database.close()
    again = Database(str(small / "state.db"))
    assert {id for id, _ in again.rows("pods")} == found
    again.close()


def test_a_durable_write_on_a_full_disk(small: Path) -> None:
    database = Database(str(small / "state.db"))
    ballast = fill(small)
    kinds = [kind_of(lambda: database.put("images", "a", b"x" * 5000, durable=True)) for _ in range(20)]
    assert kinds[-1] is Kind.EXHAUSTED
    ballast.unlink()
    database.put("images", "after", b"x", durable=True)
    database.close()


def test_a_checkpoint_on_a_full_disk_loses_nothing(small: Path) -> None:
    database = Database(str(small / "state.db"))
    for number in range(60):
        database.put("pods", str(number), b"x" * 5000)
    ballast = fill(small)
    assert kind_of(database.checkpoint) is Kind.EXHAUSTED
    assert len(database.rows("pods")) == 60
    ballast.unlink()
    database.checkpoint()
    assert os.path.getsize(small / "state.db-wal") == 0
    database.close()


@pytest.mark.parametrize("killed", [True, False])
def test_a_daemon_starts_on_a_full_disk(small: Path, killed: bool) -> None:
    """Or nobody could stop a pod there after a kill."""
    first = Database(str(small / "state.db"))
    first.put("pods", "a", b"1")
    if killed:
        files = {path: path.read_bytes() for path in small.glob("state.db*") if path.name != "state.db.reserve"}
        first.close()
        for path, content in files.items():
            path.write_bytes(content)
    else:
        first.close()
    ballast = fill(small)
    second = Database(str(small / "state.db"))
    assert second.rows("pods") == [("a", b"1")]
    second.close()
    ballast.unlink()
    third = Database(str(small / "state.db"))
    assert third.rows("pods") == [("a", b"1")]
    third.close()
    assert os.path.getsize(small / "state.db.reserve") == RESERVE
