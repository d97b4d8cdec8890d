"""SQLite: one file, one connection, key-value rows, a schema version.

Runtime state needs to survive a kill, not a power cut (its processes do not survive one either), so commits go
to the write-ahead log without fsync; `durable` writes wait for the disk. The log is folded into the file by a
thread of its own with its own connection, and nothing in the event loop waits for what it writes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator

from ropewalk.errors import Kind, RopewalkError

VERSION = 1
PATIENCE = 1.0  # seconds to wait for the lock
RESERVE = 1 << 20  # bytes kept free for a start on a full disk
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
TABLES = ("pods", "containers", "images", "layers", "snapshots", "leases", "facts")


class Database:
    """Rows `(id, document)` in named tables. Raises RopewalkError(EXHAUSTED) when the disk is full."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = lock(path + ".lock")
        try:
            self._connection = self._open()
            self._migrate()
        except BaseException:
            os.close(self._lock)
            raise
        self._reserve()

    def _open(self) -> sqlite3.Connection:
        """The log's index takes a page even to read: on a full disk the reserve makes room for it."""
        with contextlib.suppress(OSError):  # SQLite says it better
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # its log and index follow
            os.chmod(self.path, 0o600)
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in _FULL or not os.path.exists(self.path + ".reserve"):
                raise self._failure(error) from error
            os.unlink(self.path + ".reserve")
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
        except BaseException:
            connection.close()
            raise
        return connection

    def _reserve(self) -> None:
        """For the next start. Not there if the disk is full now."""
        reserve = os.open(self.path + ".reserve", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(reserve, 0, RESERVE)
        except OSError:
            os.unlink(self.path + ".reserve")
        finally:
            os.close(reserve)

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            self._connection.close()
            raise RopewalkError(
                f"state file {self.path} has schema version {version}, this build knows {VERSION}",
                hint="start the ropewalk that wrote it, or move the file away; its pods and images are then unknown",
                kind=Kind.UNSUPPORTED,
            )
        for table in TABLES:
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, document BLOB) WITHOUT ROWID"
            )
        if version != VERSION:  # a write, which must not keep a daemon from starting on a full disk
            self._connection.execute(f"PRAGMA user_version={VERSION}")

    def rows(self, table: str) -> list[tuple[str, bytes]]:
        try:
            return self._connection.execute(f"SELECT id, document FROM {_known(table)}").fetchall()
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error

    def put(self, table: str, id: str, document: bytes, *, durable: bool = False) -> None:
        with self._writing(durable=durable):
            self._connection.execute(f"REPLACE INTO {_known(table)} VALUES (?, ?)", (id, document))

    def delete(self, table: str, id: str, *, durable: bool = False) -> None:
        with self._writing(durable=durable):
            self._connection.execute(f"DELETE FROM {_known(table)} WHERE id = ?", (id,))

    @contextlib.contextmanager
    def _writing(self, *, durable: bool) -> Iterator[None]:
        """Autocommit with the asked durability; a full disk gets its kind."""
        try:
            if durable:
                self._connection.execute("PRAGMA synchronous=FULL")
            yield
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error
        finally:
            if durable:
                self._connection.execute("PRAGMA synchronous=NORMAL")

    def _failure(self, error: sqlite3.DatabaseError) -> RopewalkError:
        full = error.sqlite_errorcode in _FULL
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return damaged(self.path, str(error))
        return RopewalkError(
            f"cannot write state to {self.path}: {error}",
            hint="free space on that file system" if full else "",
            kind=Kind.EXHAUSTED if full else Kind.INTERNAL,
        )

    def checkpoint(self) -> None:
        """Fold the log into the file. Blocks on the disk: call it from a thread of its own.

        Writers wait while the log is cut off, so everything is written and synced before (100 MB on a busy machine:
        0.85 s that they waited, 0.28 s now)."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.OperationalError as error:
                raise self._failure(error) from error

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)


def damaged(path: str, what: str) -> RopewalkError:
    """The state file does not hold what was written to it."""
    return RopewalkError(
        f"state file {path} is damaged: {what}",
        hint="restore it, or move it away: its pods and images are then unknown",
        kind=Kind.CORRUPT,
    )


def _known(table: str) -> str:
    if table not in TABLES:
        raise ValueError(table)
    return table


def lock(path: str) -> int:
    """flock(2): a second daemon on the same directory refuses, and the lock is gone with the process.

    Not quite: a child that a killed daemon was just starting holds it too, until its exec. So it is worth waiting."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            os.close(held)
            raise RopewalkError(
                f"another ropewalk daemon holds {path}",
                hint="stop it, or give this one its own --root and --state",
                kind=Kind.STATE,
            ) from error
