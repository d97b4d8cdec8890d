from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.state.database import Database
from ropewalk.state.store import Table


class Thing(Struct, frozen=True):
    id: str
    value: int = 0


class FullDatabase(Database):
    """A disk that is full while `full` is true."""

    full = False

    def put(self, table: str, id: str, document: bytes, *, durable: bool = False) -> None:
        self._check()
        super().put(table, id, document, durable=durable)

    def delete(self, table: str, id: str, *, durable: bool = False) -> None:
        self._check()
        super().delete(table, id, durable=durable)

    def _check(self) -> None:
        if self.full:
            raise RopewalkError("disk is full", kind=Kind.EXHAUSTED)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[FullDatabase]:
    database = FullDatabase(str(tmp_path / "state.db"))
    yield database
    database.close()


def table(database: Database) -> Table[Thing]:
    return Table(database, "pods", Thing, noun="thing")


@pytest.fixture
def things(database: FullDatabase) -> Table[Thing]:
    return table(database)


def increased(thing: Thing, by: int = 1) -> Thing:
    return msgspec.structs.replace(thing, value=thing.value + by)


def test_a_record_is_found_again_by_the_next_daemon(database: Database, things: Table[Thing]) -> None:
    things.add(Thing("a", 1))
    things.add(Thing("b"), durable=True)
    things.apply("a", increased, 4)
    things.remove("b")
    assert list(table(database)) == [Thing("a", 5)]


def test_a_new_record_must_be_new(things: Table[Thing]) -> None:
    things.add(Thing("a", 1))
    with pytest.raises(RopewalkError, match="thing 'a' exists") as caught:
        things.add(Thing("a", 2))
    assert caught.value.kind is Kind.EXISTS
    assert things["a"].value == 1


def test_absent_records(things: Table[Thing]) -> None:
    assert things.get("a") is None
    assert "a" not in things
    with pytest.raises(NotFound, match="no thing 'a'"):
        things["a"]
    with pytest.raises(NotFound):
        things.apply("a", increased)
    things.remove("a")


def test_iteration_is_over_what_there_was(things: Table[Thing]) -> None:
    for id in "abc":
        things.add(Thing(id))
    for thing in things:
        things.remove(thing.id)
    assert len(things) == 0


@pytest.mark.parametrize(
    ("prefix", "found"), [("abc1", "abc1"), ("abc", "abc"), ("abd", "abd7"), ("x", "x9")], ids=lambda value: str(value)
)
def test_a_unique_prefix_is_enough(things: Table[Thing], prefix: str, found: str) -> None:
    for id in ("abc1", "abc", "abd7", "x9"):
        things.add(Thing(id))
    assert things.resolve(prefix).id == found


@pytest.mark.parametrize(
    ("prefix", "error"), [("", Invalid), ("ab", Invalid), ("abd71", NotFound), ("c", NotFound), ("bc", NotFound)]
)
def test_a_prefix_of_many_or_none(things: Table[Thing], prefix: str, error: type[RopewalkError]) -> None:
    for id in ("abc1", "abc", "abd7"):
        things.add(Thing(id))
    with pytest.raises(error):
        things.resolve(prefix)


def test_what_is_not_visible_is_not_found(things: Table[Thing]) -> None:
    things.add(Thing("abc", 0))
    things.add(Thing("abd", 1))
    assert things.resolve("ab", visible=lambda thing: thing.value == 1).id == "abd"
    with pytest.raises(NotFound):
        things.resolve("abc", visible=lambda thing: thing.value == 1)


def test_watchers_see_old_and_new(things: Table[Thing]) -> None:
    seen: list[tuple[Thing | None, Thing | None]] = []
    things.watch(lambda old, new: seen.append((old, new)))
    things.add(Thing("a"))
    things.apply("a", increased)
    things.apply("a", increased, 0)  # equal: nothing changed
    things.apply("a", lambda thing: thing)
    things.remove("a")
    things.remove("a")
    assert seen == [(None, Thing("a")), (Thing("a"), Thing("a", 1)), (Thing("a", 1), None)]


def test_a_watcher_sees_memory_as_it_tells(things: Table[Thing]) -> None:
    values: list[int] = []
    things.watch(lambda _, new: values.append(things["a"].value if new else -1))
    things.add(Thing("a", 7))
    things.apply("a", increased)
    assert values == [7, 8]


def test_a_change_that_could_not_be_written_was_never_seen(database: FullDatabase, things: Table[Thing]) -> None:
    things.add(Thing("a", 1))
    seen: list[object] = []
    things.watch(lambda old, new: seen.append((old, new)))
    database.full = True
    with pytest.raises(RopewalkError, match="full"):
        things.apply("a", increased)
    with pytest.raises(RopewalkError, match="full"):
        things.add(Thing("b"))
    assert (list(things), seen) == ([Thing("a", 1)], [])


def test_a_transition_that_fails_changes_nothing(database: Database, things: Table[Thing]) -> None:
    def fails(thing: Thing) -> Thing:
        raise Invalid(f"no way from {thing.value}")

    things.add(Thing("a", 1))
    with pytest.raises(Invalid):
        things.apply("a", fails)
    assert list(table(database)) == [Thing("a", 1)]


def test_on_a_full_disk_facts_and_removal_go_on_in_memory(database: FullDatabase, things: Table[Thing]) -> None:
    things.add(Thing("exits", 1))
    things.add(Thing("goes", 1))
    seen: list[object] = []
    things.watch(lambda old, new: seen.append((old, new)))
    database.full = True
    assert things.apply("exits", increased, derivable=True).value == 2
    things.remove("goes")
    assert list(things) == [Thing("exits", 2)]
    assert len(seen) == 2
    with pytest.raises(RopewalkError, match="full"):
        things.flush()
    assert len(list(table(database))) == 2  # what a killed daemon would find
    database.full = False
    things.flush()
    assert list(table(database)) == [Thing("exits", 2)]


def test_an_id_used_again_on_a_full_disk(database: FullDatabase, things: Table[Thing]) -> None:
    things.add(Thing("a", 1))
    database.full = True
    things.remove("a")
    database.full = False
    things.add(Thing("a", 2))
    things.flush()
    assert list(table(database)) == [Thing("a", 2)]


def test_records_of_an_earlier_build_are_read(database: Database) -> None:
    database.put("pods", "a", b'{"id":"a","since_removed":[1]}')
    assert list(table(database)) == [Thing("a", 0)]


def test_a_row_that_is_no_record_is_named(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "damaged.db"))
    database.put("facts", "a", b'{"id":"a","value":"seven"}')
    with pytest.raises(RopewalkError, match="is damaged: thing a: Expected `int`") as caught:
        Table(database, "facts", Thing, noun="thing")
    assert caught.value.kind is Kind.CORRUPT
    database.close()
