"""Tables of frozen records: memory is what is read, the row is what survives.

`apply` is the only way a record changes: a pure transition makes the new record, the row is written, memory is
swapped, watchers are told, all in one synchronous block. If the write fails nobody saw the change. No caller
holds a record across an await: it holds the id, and asks again.

A full disk must not keep a pod from stopping. A fact that the kernel can tell again (`derivable`: it exited, it
is gone) is therefore taken into memory even if it cannot be written; the row is written by a later `flush`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

from ropewalk.errors import Invalid, Kind, NotFound, RopewalkError
from ropewalk.state.database import Database, damaged

log = logging.getLogger(__name__)


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
        self._unwritten: set[str] = set()
        decode = msgspec.json.Decoder(type).decode
        self._records: dict[str, R] = {}
        for id, row in database.rows(name):
            try:
                self._records[id] = decode(row)
            except msgspec.MsgspecError as error:
                raise damaged(database.path, f"{noun} {id}: {error}") from error

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

    def apply(
        self, id: str, transition: Callable[..., R], *facts: object, durable: bool = False, derivable: bool = False
    ) -> R:
        """The record after `transition(record, *facts)`; unchanged records are not written."""
        old = self[id]
        new = transition(old, *facts)
        if new is not old and new != old:
            self._put(old, new, durable=durable, derivable=derivable)
        return new

    def remove(self, id: str, *, durable: bool = False) -> None:
        """Forget; absent is fine. The absence is derivable: recovery finds nothing of it in the kernel."""
        old = self._records.get(id)
        if old is not None:
            try:
                self._database.delete(self._name, id, durable=durable)
                self._unwritten.discard(id)
            except RopewalkError as error:
                self._postpone(id, error)
            del self._records[id]
            self._tell(old, None)

    def flush(self) -> None:
        """Write what a full disk kept in memory. Raises as `apply` does while it is still full."""
        for id in list(self._unwritten):
            record = self._records.get(id)
            if record is None:
                self._database.delete(self._name, id)
            else:
                self._database.put(self._name, id, self._encode(record))
            self._unwritten.discard(id)

    def _put(self, old: R | None, new: R, *, durable: bool, derivable: bool = False) -> None:
        try:
            self._database.put(self._name, new.id, self._encode(new), durable=durable)
            self._unwritten.discard(new.id)
        except RopewalkError as error:
            if not derivable:
                raise
            self._postpone(new.id, error)
        self._records[new.id] = new
        self._tell(old, new)

    def _postpone(self, id: str, error: RopewalkError) -> None:
        self._unwritten.add(id)
        log.warning("state is kept in memory", extra={"id": id, "noun": self.noun, "error": error.message})

    def _tell(self, old: R | None, new: R | None) -> None:
        for watcher in self._watchers:
            watcher(old, new)
