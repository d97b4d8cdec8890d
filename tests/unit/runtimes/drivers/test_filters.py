"""Compiled filters are given back for the same seccomp section, and for no other."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ropewalk.runtimes.drivers import filters

PROGRAM = bytes(range(16))


def spec(default: str = "SCMP_ACT_ERRNO", **annotations: str) -> dict[str, Any]:
    return {"annotations": annotations, "linux": {"seccomp": {"defaultAction": default}}}


def learned(tmp_path: Path, content: bytes = PROGRAM) -> filters.Filters:
    compiled = tmp_path / "seccomp.bpf"
    compiled.write_bytes(content)
    known = filters.Filters()
    known.learn(spec(), str(compiled))
    return known


def test_the_same_section_gets_the_filter(tmp_path: Path) -> None:
    given = learned(tmp_path).attach(spec(a="b"))
    assert given["annotations"] == {"a": "b", filters.ANNOTATION: base64.b64encode(PROGRAM).decode()}
    assert filters.detach(given) == spec(a="b")


def test_another_section_or_none_gets_nothing(tmp_path: Path) -> None:
    known = learned(tmp_path)
    assert known.attach(spec("SCMP_ACT_ALLOW")) == spec("SCMP_ACT_ALLOW")
    assert known.attach({"linux": {}}) == {"linux": {}}


def test_a_filter_that_came_with_the_spec_is_dropped() -> None:
    assert filters.Filters().attach(spec(**{filters.ANNOTATION: "AAAA"})) == spec()


def test_what_is_no_program_is_not_learned(tmp_path: Path) -> None:
    for content in (b"", b"1234567", b"x" * (filters.LARGEST + 8)):
        assert learned(tmp_path, content).attach(spec()) == spec()
    known = filters.Filters()
    known.learn(spec(), str(tmp_path / "absent"))
    assert known.attach(spec()) == spec()


def test_it_holds_a_bounded_number(tmp_path: Path) -> None:
    known = learned(tmp_path)
    for number in range(filters.LIMIT):
        known.learn(spec(str(number)), str(tmp_path / "seccomp.bpf"))
    assert known.attach(spec()) == spec()
    assert filters.ANNOTATION in known.attach(spec("5"))["annotations"]
