"""What runtimes say when a program cannot be executed, and the codes made of it; output that was cut."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ropewalk.cli import inside, main
from ropewalk.client import values
from ropewalk.errors import Invalid, NotFound
from ropewalk.pods import containers


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("create: executable file `x` not found in $PATH: No such file or directory", 127),  # crun
        ("create: open executable: Permission denied", 126),
        ('runc create failed: exec: "x": executable file not found in $PATH: unknown', 127),
        ('runc create failed: exec: "/x": stat /x: no such file or directory: unknown', 127),
        ('runc create failed: exec: "/etc/passwd": permission denied: unknown', 126),
        ("exec format error", 126),
        ("error in executing process : executable 'x' not found in $PATH", 127),  # youki
        ("executable '/etc' at path '\"/etc\"' does not have correct permissions", 126),
        ('start: starting sub-container [x]: error finding executable "x" in PATH [/bin]: no such file', 127),  # gVisor
        ("creating process: failed to load /x: no such file or directory", 127),
        ('exec: executing command "/etc" in sandbox: failed to load /etc: permission denied', 126),
        ("the mount at /x has host_path '/y': No such file or directory", 125),
        ("no such runtime handler", 125),
    ],
)
def test_codes(text: str, code: int) -> None:
    with pytest.raises(SystemExit) as caught, inside.exits(), inside.execution():
        raise Invalid(text)
    assert caught.value.code == code


@pytest.mark.parametrize("less", [0, 1])
def test_output_that_was_cut_is_said(less: int, monkeypatch: pytest.MonkeyPatch) -> None:
    result = values.ExecResult(stdout=b"x" * (containers.EXEC_LIMIT - 9 - less), stderr=b"y" * 9, exit_code=3)
    monkeypatch.setattr("ropewalk.cli.endpoint.call", lambda *_: result)
    done = CliRunner().invoke(main.ropewalk, ["exec", "c", "true"])
    assert (done.exit_code, "the output is cut after 16711680 bytes" in done.stderr) == (3, not less)


def test_only_the_execution_itself_has_126_and_127(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, inside.exits():
        raise NotFound("no image: executable file `x` not found", hint="pull")
    assert caught.value.code == 125
    assert capsys.readouterr().err == "ropewalk: no image: executable file `x` not found; pull\n"
