"""Arguments, working directory, environment, stop signals."""

from __future__ import annotations

import pytest

from ropewalk import errors
from ropewalk.runtimes.oci import process, signals
from ropewalk.spec import container, image

KeyValue = container.KeyValue


@pytest.mark.parametrize(
    ("command", "args", "entrypoint", "cmd", "expected"),
    [
        ([], [], ["/ep"], ["a"], ["/ep", "a"]),
        ([], ["x"], ["/ep"], ["a"], ["/ep", "x"]),
        (["c"], [], ["/ep"], ["a"], ["c"]),
        (["c"], ["x"], ["/ep"], ["a"], ["c", "x"]),
        ([], ["x", "y"], [], [], ["x", "y"]),
        ([], [], [], ["sh"], ["sh"]),
        (["sh", ""], [], [], [], ["sh", ""]),
    ],
)
def test_args(command: list[str], args: list[str], entrypoint: list[str], cmd: list[str], expected: list[str]) -> None:
    spec = container.ContainerSpec(command=command, args=args)
    assert process.args(spec, image.ImageConfig(entrypoint=entrypoint, cmd=cmd)) == expected


@pytest.mark.parametrize("command", [[], [""], ["a", "b\0c"]])
def test_bad_args(command: list[str]) -> None:
    with pytest.raises(errors.Invalid):
        process.args(container.ContainerSpec(command=command), image.ImageConfig())


@pytest.mark.parametrize(
    ("asked", "of_image", "expected"),
    [("", "", "/"), ("/a", "/b", "/a"), ("", "/b/../c//", "/c"), ("//a", "", "/a"), ("/../..", "", "/")],
)
def test_cwd(asked: str, of_image: str, expected: str) -> None:
    spec = container.ContainerSpec(working_dir=asked)
    assert process.cwd(spec, image.ImageConfig(working_dir=of_image)) == expected


def test_relative_cwd_is_refused() -> None:
    with pytest.raises(errors.Invalid, match="the image's WorkingDir is 'srv'"):
        process.cwd(container.ContainerSpec(), image.ImageConfig(working_dir="srv"))
    with pytest.raises(errors.Invalid, match="working_dir is 'srv'"):
        process.cwd(container.ContainerSpec(working_dir="srv"), image.ImageConfig())


def env(envs: list[container.KeyValue], of_image: list[str] | None = None, *, tty: bool = False) -> list[str]:
    spec = container.ContainerSpec(envs=envs, tty=tty)
    return process.env(spec, image.ImageConfig(env=of_image or []), hostname="h", home="/root")


def test_env_order_and_defaults() -> None:
    assert env([]) == [f"PATH={process.DEFAULT_PATH}", "HOSTNAME=h", "HOME=/root"]
    assert env([], tty=True)[2] == "TERM=xterm"
    assert env([KeyValue("TERM", b"vt100")], tty=True)[2] == "TERM=vt100"
    assert env([KeyValue("A", b"1"), KeyValue("A", b"2")], ["A=0", "PATH=/x", "HOME=/h", "EMPTY="]) == [
        "PATH=/x",
        "HOSTNAME=h",
        "A=2",
        "HOME=/h",
        "EMPTY=",
    ]


def test_malformed_image_variables_are_dropped() -> None:
    """A name without "=" must never be filled from the daemon's environment (peers T17)."""
    assert env([], ["SECRET", "=x", "", "B=\0", "C=1"]) == [
        f"PATH={process.DEFAULT_PATH}",
        "HOSTNAME=h",
        "C=1",
        "HOME=/root",
    ]


def test_bytes_are_kept() -> None:
    entry = env([KeyValue("K", b"\xff\xfe=\n")])[2]
    assert entry.encode("utf-8", "surrogateescape") == b"K=\xff\xfe=\n"
    assert process.not_utf8([entry, "A=é"]) == ["K"]


@pytest.mark.parametrize(("key", "value"), [("", b"x"), ("a=b", b"x"), ("a\0", b"x"), ("a", b"x\0y")])
def test_bad_variables_are_refused(key: str, value: bytes) -> None:
    with pytest.raises(errors.Invalid):
        env([KeyValue(key, value)])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0), ("SIGTERM", 15), ("term", 15), ("15", 15), ("9", 9), ("64", 64), ("RTMIN", 34), ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63), ("SIGRTMAX", 64), ("rtmin+30", 64), ("SIGCLD", 17), ("SIGPOLL", 29), ("SIGIOT", 6),
        ("0", 0), ("65", 0), ("-1", 0), ("RTMIN+31", 0), ("RTMAX-31", 0), ("SIGNOPE", 0), ("SIG", 0), ("１５", 0),
        ("RTMIN-1", 0), ("999999", 0), ("_NAMES", 0),
    ],
)  # fmt: skip
def test_stop_signal_of_the_image(text: str, number: int) -> None:
    assert signals.parse(text) == number
    assert signals.stop_signal(container.ContainerSpec(), image.ImageConfig(stop_signal=text)) == (number or 15)


@pytest.mark.parametrize(
    ("enum", "number"),
    [
        (1, 6), (4, 17), (10, 2), (13, 9), (15, 29), (23, 15), (29, 10), (34, 25), (35, 34), (38, 37), (50, 49),
        (51, 50), (64, 63), (65, 64),
    ],
)  # fmt: skip
def test_stop_signal_of_the_request(enum: int, number: int) -> None:
    spec = container.ContainerSpec(stop_signal=enum)
    assert signals.stop_signal(spec, image.ImageConfig(stop_signal="SIGINT")) == number


@pytest.mark.parametrize("enum", [-1, 66, 1000])
def test_unknown_enum_numbers_are_refused(enum: int) -> None:
    with pytest.raises(errors.Invalid, match="stop_signal is"):
        signals.from_enum(enum)
