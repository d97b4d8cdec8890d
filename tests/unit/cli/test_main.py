"""The command group: verbs are files, help is read and not imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from ropewalk.cli import exits, main
from ropewalk.errors import Kind, NotFound


def test_help_lists_every_file_with_its_first_line() -> None:
    text = CliRunner().invoke(main.ropewalk, ["--help"]).output
    assert "Run the daemon that serves the Kubernetes Container Runtime Interface" in " ".join(text.split())


def test_every_verb_has_a_command_and_a_help_line() -> None:
    result = CliRunner()
    for verb in main.ropewalk.list_commands(main.ropewalk.make_context("ropewalk", [], resilient_parsing=True)):
        assert len(main.summary(verb)) > 5, verb
        assert result.invoke(main.ropewalk, [verb, "--help"]).exit_code == 0


def test_a_misspelt_verb_names_the_nearest() -> None:
    result = CliRunner().invoke(main.ropewalk, ["srve"])
    assert result.exit_code == 2
    assert "did you mean serve?" in result.output


def test_version() -> None:
    assert CliRunner().invoke(main.ropewalk, ["--version"]).output.startswith("ropewalk ")


def test_every_kind_has_an_exit_code() -> None:
    assert set(exits.EXITS) == set(Kind)
    assert len(set(exits.EXITS.values())) == len(exits.EXITS)
    assert 0 not in exits.EXITS.values()


def test_an_error_is_one_line_and_a_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: object, **options: object) -> None:
        raise NotFound("no container 'x\x1b[2J'", hint="look at `ropewalk ps -a`")

    monkeypatch.setattr(main.ropewalk, "main", fail)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 3
    assert capsys.readouterr().err == "ropewalk: no container 'x\\x1b[2J'; look at `ropewalk ps -a`\n"


@pytest.mark.parametrize("verb", ["--help", "config default", "run --help"])
def test_output_that_cannot_be_written_is_one_line(verb: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ropewalk", *verb.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "ropewalk: the output cannot be written: No space left on device\n"
    assert done.returncode == (125 if verb.startswith("run") else 1)


def test_nothing_that_is_opened_later_takes_the_place_of_a_closed_stream() -> None:
    script = (
        "import os, sys\nfrom ropewalk.cli import main\n"
        "main.ropewalk.main = lambda **_: None\nmain.main()\n"
        "print(sys.stdout.isatty(), os.open('/', os.O_RDONLY) > 2, file=sys.stderr)"
    )
    closed = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", script]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "False True\n")


def test_help_loads_neither_asyncio_nor_grpc() -> None:
    script = (
        "import sys\nfrom ropewalk.cli import main\n"
        "try: main.ropewalk.main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'asyncio', 'grpc', 'msgspec', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
