"""ropewalk config default, dump, check."""

from __future__ import annotations

import tomllib
from pathlib import Path

from click.testing import CliRunner

from ropewalk.cli.commands import config


def test_default_is_commented_toml() -> None:
    text = CliRunner().invoke(config.command, ["default"]).output
    assert "# Directory of images, layers and records.\n# root = " in text
    assert "[network]" in text
    tomllib.loads(text)


def test_dump_is_what_is_in_effect(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('root = "/x"\nrot = 1\n')
    result = CliRunner().invoke(config.command, ["dump", "--config", str(tmp_path / "c.toml")])
    assert tomllib.loads(result.stdout)["root"] == "/x"
    assert "unknown key rot; did you mean root?" in result.stderr


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('root = "/x"\n')
    assert CliRunner().invoke(config.command, ["check", str(file)]).exit_code == 0
    file.write_text("rot = 1\n")
    assert CliRunner().invoke(config.command, ["check", str(file)]).exit_code == 2
