from __future__ import annotations

import functools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.state import database
from ropewalk.state.database import Database

WRITER = """
import sys
from ropewalk.state.database import Database
database = Database(sys.argv[1])
number = 0
while True:
    database.put("pods", str(number % 50), str(number).encode(), durable=number % 100 == 0)
    sys.stdout.buffer.write(b"%d\\n" % number)
    sys.stdout.buffer.flush()
    number += 1
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


def test_rows_outlive_the_connection(path: str) -> None:
    first = Database(path)
    first.put("pods", "a", b"1")
    first.put("pods", "a", b"2")
    first.put("pods", "b", b"3", durable=True)
    first.put("images", "a", b"4")
    first.delete("pods", "b", durable=True)
    first.delete("pods", "absent")
    first.close()
    second = Database(path)
    assert second.rows("pods") == [("a", b"2")]
    assert second.rows("images") == [("a", b"4")]
    assert second.rows("containers") == []
    second.close()


@pytest.mark.parametrize("table", ["", "sqlite_master", "pods; DROP TABLE pods"])
def test_only_known_tables(path: str, table: str) -> None:
    db = Database(path)
    for attempt in (db.rows, lambda t: db.put(t, "a", b""), lambda t: db.delete(t, "a")):
        with pytest.raises(ValueError):
            attempt(table)
    db.close()


def test_a_second_daemon_on_the_same_root_refuses(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.0)
    first = Database(path)
    with pytest.raises(RopewalkError, match="another ropewalk daemon") as caught:
        Database(path)
    assert caught.value.kind is Kind.STATE
    first.put("pods", "a", b"1")
    first.close()
    Database(path).close()


def test_a_lock_that_a_killed_daemons_child_holds_for_a_moment(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the child holds it for 0.1 s after its parent has let go."""
    monkeypatch.setattr(database, "PATIENCE", 20.0)
    first = Database(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", "print('holding', flush=True); import time; time.sleep(0.1)"],
        pass_fds=[first._lock],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    first.close()
    Database(path).close()
    holder.wait()
    holder.stdout.close()


def test_a_schema_that_is_too_new_is_refused(path: str) -> None:
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={database.VERSION + 1}")
    connection.close()
    with pytest.raises(RopewalkError, match="schema version 2, this build knows 1") as caught:
        Database(path)
    assert caught.value.kind is Kind.UNSUPPORTED


def test_a_refused_file_can_be_opened_once_it_is_right_again(path: str) -> None:
    """The lock of a refused opening must not stay with the process."""
    Database(path).close()
    for version in (database.VERSION + 1, database.VERSION):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()
        if version > database.VERSION:
            with pytest.raises(RopewalkError, match="schema"):
                Database(path)
    Database(path).close()


def test_a_checkpoint_folds_the_log(path: str) -> None:
    db = Database(path)
    for number in range(100):
        db.put("pods", str(number), b"x" * 1000)
    assert os.path.getsize(path + "-wal") > 100_000
    db.checkpoint()
    assert os.path.getsize(path + "-wal") == 0
    db.put("pods", "after", b"x")
    assert len(db.rows("pods")) == 101
    db.close()


def test_a_checkpoint_writes_before_it_locks_writers_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRUNCATE alone would hold the event loop up for as long as the disk takes."""
    db = Database(path)
    said: list[str] = []

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            said.append(sql)
            return super().execute(sql, *parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    db.checkpoint()
    assert said == ["PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"]
    db.close()


def test_every_acknowledged_row_survives_a_kill(path: str) -> None:
    """The writer says each number after its put; whoever kills it at any moment finds that number or a later one."""
    acknowledged = -1
    for said in (1, 700, 1500):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(said)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
        acknowledged = len(lines) - 1
        db = Database(path)
        rows = dict(db.rows("pods"))
        assert max(int(value) for value in rows.values()) >= acknowledged
        for number in range(max(0, acknowledged - 49), acknowledged + 1):
            assert int(rows[str(number % 50)]) >= number
        db.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            connection.execute("DELETE FROM pods")
        connection.close()


def test_a_file_that_is_no_database_is_said_to_be_damaged(path: str) -> None:
    Path(path).write_bytes(b"this was a database once " * 1000)
    with pytest.raises(RopewalkError, match="is damaged") as caught:
        Database(path)
    assert (caught.value.kind, "move it away" in caught.value.hint) == (Kind.CORRUPT, True)


def test_pages_that_are_lost_are_said_to_be_damage(path: str) -> None:
    first = Database(path)
    for number in range(100):
        first.put("pods", str(number), bytes(1000))
    first.checkpoint()
    first.close()
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        file.seek(40_960)
        file.write(b"\xff" * (size - 40_960))
    second = Database(path)
    with pytest.raises(RopewalkError, match="is damaged"):
        second.rows("pods")
    second.close()
