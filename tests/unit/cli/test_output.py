"""Tables, JSON, and names that want to steer a terminal."""

from __future__ import annotations

import io
import json

import pytest

from ropewalk.cli import output
from ropewalk.client import values
from ropewalk.spec.container import ContainerMetadata


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_columns_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["NAME", "STATE"], [["a name", "Up 3 minutes"], ["b", ""]])
    assert capsys.readouterr().out == "NAME    STATE\na name  Up 3 minutes\nb       -\n"


def test_a_terminal_gets_a_table_and_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.table(["NAME"], [["[red]x[/red]"], ["y" * 100]])
    text = terminal.getvalue()
    assert "[red]x[/red]" in text
    assert "\x1b[1m" in text
    assert text.count("y") == 100  # folded, not cut


def test_ids_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    id, long = "0123456789ab", "word " * 30
    for columns, lines in (("20", 2), ("60", 5)):
        terminal = Terminal()
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", columns)
        output.table(["POD ID", "NAME", "EVIDENCE"], [[id, "a name", long]])
        text = terminal.getvalue()
        assert f"{id}  a name  word word" in text
        assert (text.count("word"), len(text.splitlines()) >= lines) == (30, True)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert output.printable("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit([{"a": "ü"}])
    output.emit({"b": 1}, line=True)
    text = capsys.readouterr().out
    assert json.loads(text.rpartition("\n{")[0]) == [{"a": "ü"}]
    assert text.endswith('\n{"b": 1}\n')


def test_a_status_as_a_document() -> None:
    status = values.ContainerStatus(
        id="x",
        metadata=ContainerMetadata("main", 2),
        state=values.ContainerState.EXITED,
        created_at=1_700_000_000_000_000_000,
        labels={"a": "b"},
    )
    told = output.document(status)
    assert (told["state"], told["metadata"]) == ("EXITED", {"name": "main", "attempt": 2})
    assert (told["created_at"], told["finished_at"]) == ("2023-11-14T22:13:20.000000000Z", "")
    assert output.document(values.ExecResult(b"\xff", b"", 3)) == {"stdout": "\ufffd", "stderr": "", "exit_code": 3}
    json.dumps(told)
