"""Where the time of a pod goes: the arithmetic."""

from __future__ import annotations

from pathlib import Path

from bench import timeline


def test_the_time_before_each_passage_is_its_own(tmp_path: Path) -> None:
    file = tmp_path / "passages"
    file.write_text("1000000 a\n3500000 b: with a blank\n3600000 a\n")
    passages = timeline.read(file)
    assert passages[1] == timeline.Passage(3_500_000, "b: with a blank")
    assert list(timeline.spans(passages)) == [("b: with a blank", 2.5), ("a", 0.1)]
    assert [name for name, _ in timeline.spans([*passages, *passages])][-1] == "a (3)"


def test_the_daemon_of_it_writes_what_can_be_read(tmp_path: Path) -> None:
    note = timeline.recorder(str(tmp_path / "passages"))
    note("one")
    note("two")
    one, two = timeline.read(tmp_path / "passages")
    assert (one.name, two.name) == ("one", "two")
    assert one.at <= two.at
