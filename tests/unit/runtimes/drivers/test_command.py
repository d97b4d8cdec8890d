"""A runtime's words become our errors."""

from __future__ import annotations

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.runtimes.drivers import command

CRUN = b'{"msg":"executable file `x` not found in $PATH: No such file or directory","level":"error","time":"t"}\n'
RUNC = b'{"level":"warning","msg":"careful"}\n{"level":"error","msg":"runc create failed: first\\nsecond","time":"t"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CRUN, "executable file `x` not found in $PATH: No such file or directory"),
        (RUNC, "runc create failed: first"),
        (b'{"level":"warning","msg":"careful"}\n', ""),
        (b"plain words\nmore\n", "plain words"),
        (b"plain\n" + CRUN, "executable file `x` not found in $PATH: No such file or directory"),
        (b'{"level":"INFO","message":"x"}\n{"level":"ERROR","message":"no","err":"dir"}\n', "no: dir"),  # youki's
        (b'{"level":"error"}\n[]\n\xff\n', '{"level":"error"}'),
        (b"", ""),
    ],
)
def test_the_last_error_of_a_log(content: bytes, message: str) -> None:
    assert command.parse_log(content) == message


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("executable file `x` not found in $PATH", Kind.INVALID),
        ("write: No space left on device", Kind.EXHAUSTED),
        ("container `x` does not exist", Kind.NOT_FOUND),
        ("the container `x` is not running", Kind.STATE),
        ("cgroups in hybrid mode not supported, drop all controllers from cgroupv2", Kind.UNSUPPORTED),
        ("something else", Kind.INTERNAL),
    ],
)
def test_a_failure_names_container_verb_and_words(message: str, kind: Kind) -> None:
    error = command.failure("f" * 64, "create", message)
    assert error.message == f"container {'f' * 13}: create: {message}"
    assert error.kind is kind


def test_an_absent_runtime_is_unavailable_with_advice() -> None:
    with pytest.raises(RopewalkError, match="no-such-runtime") as caught:
        command.Command("no-such-runtime", "/root").prefix("/log")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.hint == "apt-get install no-such-runtime"


def test_flags_stand_before_the_verb() -> None:
    argv = command.Command("/bin/sh", "/run/x", ["--debug"]).prefix("/log")
    assert argv == ["/bin/sh", "--root=/run/x", "--log=/log", "--log-format=json", "--debug"]
