"""Compiled filters are given back for the same seccomp section of the same compiler, and for no other."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from ropewalk.runtimes.drivers import filters

# ld [4]; jeq #0xc000003e, 0, 1; ret ALLOW; ret KILL
PROGRAM = bytes.fromhex("2000000004000000 150000013e0000c0 060000000000ff7f 0600000000000000")
COMPILER = filters.Compiler(((1, 2, 3, 4, 5),), 5)
NEWER = filters.Compiler(((1, 2, 3, 4, 6),), 6)


def spec(default: str = "SCMP_ACT_ERRNO", **annotations: str) -> dict[str, Any]:
    return {"annotations": annotations, "linux": {"seccomp": {"defaultAction": default}}}


def learned(tmp_path: Path, content: bytes = PROGRAM, compiler: filters.Compiler = COMPILER) -> filters.Filters:
    compiled = tmp_path / "seccomp.bpf"
    compiled.write_bytes(content)
    compiled.chmod(0o600)
    known = filters.Filters()
    known.learn(spec(), str(compiled), compiler)
    return known


def test_the_same_section_gets_the_filter(tmp_path: Path) -> None:
    given = learned(tmp_path).attach(spec(a="b"), COMPILER)
    assert given["annotations"] == {"a": "b", filters.ANNOTATION: base64.b64encode(PROGRAM).decode()}
    assert filters.detach(given) == spec(a="b")


def test_another_section_or_none_gets_nothing(tmp_path: Path) -> None:
    known = learned(tmp_path)
    assert known.attach(spec("SCMP_ACT_ALLOW"), COMPILER) == spec("SCMP_ACT_ALLOW")
    assert known.attach({"linux": {}}, COMPILER) == {"linux": {}}


@pytest.mark.parametrize(
    "other",
    [
        {"defaultErrnoRet": 38},
        {"architectures": ["SCMP_ARCH_X86"]},
        {"flags": ["SECCOMP_FILTER_FLAG_LOG"]},
        {"listenerPath": "/run/x"},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]},
    ],
)
def test_every_word_of_the_section_counts(tmp_path: Path, other: dict[str, Any]) -> None:
    known = learned(tmp_path)
    changed = {"annotations": {}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", **other}}}
    assert known.attach(changed, COMPILER) == changed


def test_another_compiler_compiles_anew(tmp_path: Path) -> None:
    assert learned(tmp_path).attach(spec(), NEWER) == spec()


def test_crun_and_libseccomp_are_the_compiler(tmp_path: Path) -> None:
    program, library = tmp_path / "crun", tmp_path / "libseccomp.so.2.5.4"
    for path in (program, library):
        path.write_bytes(b"old")
    (tmp_path / "libseccomp.so.2").symlink_to(library.name)
    known = filters.Filters((str(tmp_path / "libseccomp.so.?"),))
    first = known.compiler(str(program))
    assert len(first.files) == 2
    assert known.compiler(str(program)) == first
    assert first.since == max(path.stat().st_ctime_ns for path in (program, library))
    newer = tmp_path / "libseccomp.so.2.6.0"
    newer.write_bytes(b"new")
    os.symlink(newer.name, tmp_path / "link")
    os.rename(tmp_path / "link", tmp_path / "libseccomp.so.2")
    second = known.compiler(str(program))
    assert second != first
    program.write_bytes(b"newer")
    assert known.compiler(str(program)) != second
    assert filters.Filters(()).compiler("/no/such/crun") == filters.Compiler((), 0)


def test_what_was_compiled_around_an_upgrade_is_not_learned(tmp_path: Path) -> None:
    """It may be the work of the crun of before, which the key of the present one would claim."""
    written = tmp_path / "now"
    written.touch()
    for before in (0, filters.UPGRADE_NS - 10**9):
        just = filters.Compiler(((1,),), written.stat().st_mtime_ns - before)
        assert learned(tmp_path, compiler=just).attach(spec(), just) == spec()
    settled = filters.Compiler(((1,),), written.stat().st_mtime_ns - filters.UPGRADE_NS - 1)
    assert filters.ANNOTATION in learned(tmp_path, compiler=settled).attach(spec(), settled)["annotations"]


def test_a_filter_that_came_with_the_spec_is_dropped(tmp_path: Path) -> None:
    """Wherever an annotation came from, it is never what replaces the filter."""
    smuggled = spec(**{filters.ANNOTATION: "AAAA"})
    assert filters.Filters().attach(smuggled, COMPILER) == spec()
    given = learned(tmp_path).attach(smuggled, COMPILER)
    assert given["annotations"][filters.ANNOTATION] == base64.b64encode(PROGRAM).decode()
    none = {"annotations": {filters.ANNOTATION: "AAAA"}, "linux": {}}
    assert filters.Filters().attach(none, COMPILER)["annotations"] == {}


def test_a_part_of_a_program_is_not_learned(tmp_path: Path) -> None:
    for size in range(len(PROGRAM)):
        assert learned(tmp_path, PROGRAM[:size]).attach(spec(), COMPILER) == spec()
    too_long = PROGRAM[-8:] * (filters.LARGEST // 8 + 1)
    assert learned(tmp_path, too_long).attach(spec(), COMPILER) == spec()


def test_a_file_that_others_could_have_written_is_not_learned(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(PROGRAM)
    good.chmod(0o600)
    known = filters.Filters()

    def learns(path: Path) -> bool:
        known.learn(spec(), str(path), COMPILER)
        return known.attach(spec(), COMPILER) != spec()

    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "open").write_bytes(PROGRAM)
    (tmp_path / "open").chmod(0o602)
    for name in ("absent", "link", "fifo", "directory", "open"):
        assert not learns(tmp_path / name), name
    assert learns(good)


def test_a_known_filter_is_not_replaced(tmp_path: Path) -> None:
    known = learned(tmp_path)
    (tmp_path / "seccomp.bpf").write_bytes(PROGRAM[-8:])
    known.learn(spec(), str(tmp_path / "seccomp.bpf"), COMPILER)
    assert known.attach(spec(), COMPILER)["annotations"][filters.ANNOTATION] == base64.b64encode(PROGRAM).decode()


def test_it_holds_a_bounded_number(tmp_path: Path) -> None:
    known = learned(tmp_path)
    for number in range(filters.LIMIT):
        known.learn(spec(str(number)), str(tmp_path / "seccomp.bpf"), COMPILER)
    assert known.attach(spec(), COMPILER) == spec()
    assert filters.ANNOTATION in known.attach(spec("5"), COMPILER)["annotations"]
