"""A reload applies all that changed, or nothing, and says which."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ropewalk.daemon import config, logs, reload, settings, systemd
from ropewalk.errors import Invalid

START = '[images]\nstall_timeout = 5\n[log]\nlevel = "warning"\n'
LIVE = {
    "log.level",
    "log.format",
    "images.registry_hosts",
    "images.pull_workers",
    "images.stall_timeout",
    "images.max_layer_bytes",
    "images.max_layer_files",
    "images.max_layer_ratio",
    "images.pinned",
    "network.ready",
}


class Daemon:
    """Holds a configuration, and counts how often it got another."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.config = self.read().config
        self.times = 0

    def read(self) -> config.Loaded:
        return config.load(str(self.file), {"log": {"format": "json"}}, environ={"ROPEWALK_NETWORK_MTU": "1400"})

    def reconfigure(self, config: config.Config) -> None:
        self.config = config
        self.times += 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the service manager is told."""
    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", lambda *fields: told.extend(fields))
    return told


@pytest.fixture
def daemon(tmp_path: Path, said: list[str]) -> Daemon:
    (tmp_path / "config.toml").write_text(START)
    return Daemon(tmp_path / "config.toml")


def test_which_keys_are_live() -> None:
    assert {key.name for key in settings.keys(config.Config) if key.live} == LIVE


def test_every_live_key_is_taken_over(daemon: Daemon, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    daemon.file.write_text('[images]\nstall_timeout = 7\npinned = ["a:1"]\n[network]\nready = 2\n')
    reload.run(daemon.read, daemon)
    assert (daemon.config.images.stall_timeout, daemon.config.images.pinned, daemon.config.network.ready) == (
        7.0,
        ["a:1"],
        2,
    )
    assert daemon.config.log == logs.Config("info", "json"), "a key that left the file; a flag that stays"
    assert daemon.config.network.mtu == 1400, "the environment stays"
    (record,) = [r for r in caplog.records if r.message == "configuration reloaded"]
    assert record.__dict__["changed"] == {
        "log.level": '"warning" -> "info"',
        "network.ready": "4 -> 2",
        "images.stall_timeout": "5.0 -> 7.0",
        "images.pinned": '[] -> ["a:1"]',
    }
    assert said[0] == "RELOADING=1"
    assert said[1].startswith("MONOTONIC_USEC=")
    assert said[2] == "READY=1"
    assert "log.level, network.ready" in said[3]


def test_fragments_are_read_again(daemon: Daemon) -> None:
    (daemon.file.parent / "conf.d").mkdir()
    (daemon.file.parent / "conf.d/10-log.toml").write_text('[log]\nlevel = "debug"\n')
    reload.run(daemon.read, daemon)
    assert daemon.config.log.level == "debug"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[images]\nstall_timeout = 7\n[log]\nlevel = "loud"\n', "log.level = 'loud'"),
        ("[images]\nstall_timeout = 7\n[", "cannot read"),
        ('[images]\nstall_timeout = 7\npinned = ["UPPER"]\n', "images.pinned = ['UPPER']"),
        ('root = "relative"\n[images]\nstall_timeout = 7\n', "not an absolute path"),
    ],
)
def test_what_is_wrong_changes_nothing_and_is_said(
    daemon: Daemon, said: list[str], caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    before = daemon.config
    daemon.file.write_text(text)
    reload.run(daemon.read, daemon)
    assert (daemon.config, daemon.times) == (before, 0)
    (record,) = caplog.records
    assert (record.levelname, why in record.message) == ("ERROR", True), record.message
    assert said[2] == "READY=1"
    assert why in said[3]


def test_a_file_that_is_gone_changes_nothing(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.file.unlink()
    reload.run(daemon.read, daemon)
    assert daemon.times == 0
    assert "No such file" in caplog.text


def test_a_key_that_needs_a_restart_holds_the_others_back(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.file.write_text('root = "/other"\n[images]\nstall_timeout = 7\n[network]\nbridge = "b0"\n')
    reload.run(daemon.read, daemon)
    assert (daemon.times, daemon.config.images.stall_timeout) == (0, 5.0)
    assert 'changes only with a restart: root ("/var/lib/ropewalk" -> "/other"), network.bridge ("" -> "b0")' in (
        caplog.text
    )
    assert "log.level, images.stall_timeout could change at once" in caplog.text


def test_unknown_keys_are_warned_of(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.file.write_text(START + "[imagse]\n")
    reload.run(daemon.read, daemon)
    assert daemon.times == 1
    assert "unknown key imagse; did you mean images?" in caplog.text


def test_the_manager_is_told_of_the_end_whatever_happens(daemon: Daemon, said: list[str]) -> None:
    def defect() -> config.Loaded:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reload.run(defect, daemon)
    assert said[2:] == ["READY=1", "STATUS=failed"]


def test_a_wrong_pin_is_an_error_at_the_start_too(daemon: Daemon) -> None:
    with pytest.raises(Invalid, match=r"images.pinned = \['UPPER'\]"):
        config.load("", {"images": {"pinned": ["UPPER"]}}, environ={})
