"""What ./dev docs writes: every verb, flag and key is in it, and docs/settings.md is what it would write now."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ropewalk.cli import main
from ropewalk.daemon import config, settings
from tools import docs, manual

KEYS = list(settings.keys(config.Config))
PAGES = dict(manual.build())
VERBS = main.ropewalk.list_commands(click.Context(main.ropewalk))


def test_settings_are_as_declared(repository: Path) -> None:
    assert docs.build_settings() == (repository / "docs/settings.md").read_text(), "run ./dev docs"


def test_every_key_is_told_with_all_there_is(repository: Path) -> None:
    rows = [line for line in docs.build_settings().splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)
    for key, row in zip(KEYS, rows, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[0] == f"`{key.path[-1]}`"
        assert cells[3:5] == [f"`{settings.toml(key.default)}`", "live" if key.live else "restart"]
        assert cells[5] in (f"`{settings.variable(key, 'ROPEWALK')}`", "none")
        assert all(cells)


def test_values_are_said_in_words() -> None:
    values = {key.name: key.values for key in KEYS}
    assert values["images.stall_timeout"] == "number, above 0, at most 3600"
    assert values["network.mtu"] == "integer, at least 0"
    assert values["images.pinned"] == "list of text"
    assert values["snapshotter"] == '"overlay" or "native"'


def plain(page: str) -> str:
    return page.replace("\\-", "-").replace("\\fB", "").replace("\\fP", "").replace("\\e", "\\")


def test_every_verb_has_a_page_and_is_on_the_first() -> None:
    assert {f"man/man1/ropewalk-{verb}.1" for verb in VERBS} < set(PAGES)
    first = plain(PAGES["man/man1/ropewalk.1"])
    assert [verb for verb in VERBS if f"\nropewalk-{verb}(1)\n" not in first] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_is_on_its_page(verb: str) -> None:
    command = main.ropewalk.get_command(click.Context(main.ropewalk), verb)
    assert command is not None
    page = plain(PAGES[f"man/man1/ropewalk-{verb}.1"])
    flags = [flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts]
    assert [flag for flag in flags if flag not in page] == []
    assert f"ropewalk {verb}" in page
    subcommands = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
    assert [name for name in subcommands if f"ropewalk {verb} {name}" not in page] == []


def test_every_key_is_on_the_settings_page() -> None:
    page = plain(PAGES["man/man5/ropewalk.toml.5"])
    assert [key.name for key in KEYS if f"\n{key.name} = " not in page] == []
    assert [key.name for key in KEYS if config.variable(key) not in page] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_nothing_to_complain_of(name: str) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", docs.COMPLETIONS)
def test_completions_are_scripts_of_their_shell(shell: str, tmp_path: Path) -> None:
    (text,) = (text for path, text in docs.build_completions() if path == docs.COMPLETIONS[shell])
    assert "ropewalk" in text
    assert f"{shell}_complete" in text
    (tmp_path / "script").write_text(text)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "expected"), [("ropewalk pu", "plain,pull"), ("ropewalk pull --q", "plain,--quiet")])
def test_the_command_answers_them(words: str, expected: str) -> None:
    count = str(len(words.split()) - 1)
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": count, "_ROPEWALK_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-m", "ropewalk"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [expected], done.stderr


def test_without_a_directory_only_the_settings_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "SETTINGS", tmp_path / "settings.md")
    monkeypatch.setattr(sys, "argv", ["docs"])
    assert docs.main() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["settings.md"]
    monkeypatch.setattr(sys, "argv", ["docs", str(tmp_path / "share")])
    assert docs.main() == 0
    assert (tmp_path / "share/man/man5/ropewalk.toml.5").is_file()
