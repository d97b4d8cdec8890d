"""Logs that `run` made are removed with their pod; nothing else is."""

from __future__ import annotations

from pathlib import Path

from ropewalk.cli import lifecycle


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def test_the_logs_of_a_pod_and_their_directories(tmp_path: Path) -> None:
    log = make(tmp_path / "d_web_uid" / "web" / "0.log")
    lifecycle.remove_logs([str(log)], "d_web_uid")
    assert list(tmp_path.iterdir()) == []


def test_no_other_file(tmp_path: Path) -> None:
    """Whatever path an endpoint names: only a log in the pod's own directory is a log of ours."""
    passwd = make(tmp_path / "etc" / "passwd")
    foreign = make(tmp_path / "d_other_uid" / "web" / "0.log")
    kept = make(tmp_path / "d_web_uid" / "web" / "notes.txt")
    log = make(tmp_path / "d_web_uid" / "web" / "0.log")
    lifecycle.remove_logs([str(passwd), str(foreign), str(kept), str(log), "", "0.log"], "d_web_uid")
    assert (passwd.exists(), foreign.exists(), kept.exists(), log.exists()) == (True, True, True, False)
