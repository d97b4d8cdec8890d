"""Tables of frozen records: memory is what is read, the row is what survives.

`apply` is the only way a record changes: a pure transition makes the new record, the row is written, memory is
swapped, watchers are told, all in one synchronous block. If the write fails nobody saw the change. No caller
holds a record across an await: it holds the id, and asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.state.database import Database


class Record(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=Record)
Watcher = Callable[[R | None, R | None], None]  # (old, new): None is absent


class Table(Generic[R]):
    """One type of record. `noun` is how errors call it: "container", "pod sandbox", "image"."""

    def __init__(self, database: Database, name: str, type: type[R], *, noun: str) -> None:
        self.noun = noun
        self._database = database
        self._name = name
        self._encode = msgspec.json.Encoder().encode
        self._watchers: list[Watcher[R]] = []
        decode = msgspec.json.Decoder(type).decode
        self._records: dict[str, R] = {id: decode(row) for id, row in database.rows(name)}

    def watch(self, watcher: Watcher[R]) -> None:
        self._watchers.append(watcher)

    def get(self, id: str) -> R | None:
        return self._records.get(id)

    def __getitem__(self, id: str) -> R:
        record = self._records.get(id)
        if record is None:
            raise NotFound(f"no {self.noun} {id!r}")
        return record

    def __contains__(self, id: str) -> bool:
        return id in self._records

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def resolve(self, prefix: str, *, visible: Callable[[R], bool] = lambda _: True) -> R:
        """The record whose id is, or uniquely begins with, `prefix`."""
        if not prefix:
            raise Invalid(f"the {self.noun} id is empty")
        record = self._records.get(prefix)
        if record is not None and visible(record):
            return record
        found = [r for id, r in self._records.items() if id.startswith(prefix) and visible(r)]
        if not found:
            raise NotFound(f"no {self.noun} {prefix!r}")
        if len(found) > 1:
            raise Invalid(
                f"{self.noun} id {prefix!r} is ambiguous: {len(found)} begin with it", hint="give more digits"
            )
        return found[0]

    def add(self, record: R, *, durable: bool = False) -> None:
        """A new record. `durable`: on disk before this returns (power loss), not only in the journal (kill)."""
        if record.id in self._records:
            raise RopewalkError(f"{self.noun} {record.id!r} exists", kind=Kind.EXISTS)
        self._put(None, record, durable=durable)

    def apply(self, id: str, transition: Callable[..., R], *facts: object, durable: bool = False) -> R:
        """The record after `transition(record, *facts)`; unchanged records are not written."""
        old = self[id]
        new = transition(old, *facts)
        if new is not old and new != old:
            self._put(old, new, durable=durable)
        return new

    def remove(self, id: str, *, durable: bool = False) -> None:
        """Forget; absent is fine."""
        old = self._records.get(id)
        if old is not None:
            self._database.delete(self._name, id, durable=durable)
            del self._records[id]
            self._tell(old, None)

    def _put(self, old: R | None, new: R, *, durable: bool) -> None:
        self._database.put(self._name, new.id, self._encode(new), durable=durable)
        self._records[new.id] = new
        self._tell(old, new)

    def _tell(self, old: R | None, new: R | None) -> None:
        for watcher in self._watchers:
            watcher(old, new)
