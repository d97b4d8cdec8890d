from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import cgroup, pidfd
from ropewalk.linux.cgroup_v1 import CgroupsV1
from ropewalk.linux.cgroup_v2 import CgroupsV2

UNIFIED = "24 1 0:22 / {0}/unified rw - cgroup2 cgroup2 rw"
MEMORY = "25 1 0:23 / {0}/memory rw - cgroup cgroup rw,memory"
CPU = "26 1 0:24 / {0}/cpu,cpuacct rw - cgroup cgroup rw,cpuacct,cpu"
SYSTEMD = "27 1 0:25 / {0}/systemd rw - cgroup cgroup rw,xattr,name=systemd"


def detect(tmp_path: Path, *lines: str) -> cgroup.Cgroups:
    file = tmp_path / "mountinfo"
    file.write_text("".join(line.format(tmp_path) + "\n" for line in lines))
    return cgroup.detect(str(file))


def test_any_v1_controller_makes_it_v1(tmp_path: Path) -> None:
    found = detect(tmp_path, SYSTEMD, CPU, MEMORY, UNIFIED)
    assert isinstance(found, CgroupsV1)
    assert found.controllers() == {"cpu", "cpuacct", "memory"}
    assert found.directories("/pod/x") == [
        f"{tmp_path}/{name}/pod/x" for name in ("systemd", "cpu,cpuacct", "memory", "unified")
    ]


def test_v2_alone_or_beside_a_named_hierarchy_is_v2(tmp_path: Path) -> None:
    for lines in ([UNIFIED], [SYSTEMD, UNIFIED]):
        found = detect(tmp_path, *lines)
        assert isinstance(found, CgroupsV2)
        assert found.directories("/pod") == [f"{tmp_path}/unified/pod"]


def test_no_cgroups_at_all_says_what_to_mount(tmp_path: Path) -> None:
    with pytest.raises(errors.Unsupported, match="mount -t cgroup2"):
        detect(tmp_path)


@pytest.mark.parametrize("path", ["", "pod", "/../x", "/pod/..", "/./x", "/a\0b"])
def test_paths_that_could_leave_are_refused(path: str) -> None:
    with pytest.raises(errors.Invalid):
        cgroup.relative(path)


def test_paths_are_relative_to_the_hierarchy() -> None:
    assert cgroup.relative("/") == ""
    assert cgroup.relative("//pod//x/") == "pod/x"


async def test_the_root_is_never_removed(tmp_path: Path) -> None:
    for path in ("/", "//"):
        with pytest.raises(errors.Invalid):
            await CgroupsV2(str(tmp_path)).remove(path)


def test_numbers_limits_and_fields() -> None:
    assert cgroup.number(b"42\n") == 42
    assert cgroup.number(b"-1\n") == -1
    assert cgroup.number(b"max\n") is None
    assert cgroup.number(b"") is None
    assert cgroup.limit(b"9223372036854771712\n") is None
    assert cgroup.limit(b"1048576\n") == 1048576
    lines = b"cache 1\nrss 2\ntotal_rss 3\nlast 4"
    assert [cgroup.field(lines, name) for name in (b"cache", b"rss", b"total_rss", b"last", b"che", b"none")] == [
        1,
        2,
        3,
        4,
        None,
        None,
    ]


async def test_below_and_removed_bottom_up(tmp_path: Path) -> None:
    found = CgroupsV2(str(tmp_path))
    (tmp_path / "pod/a/deep").mkdir(parents=True)
    (tmp_path / "pod/b").mkdir()
    assert found.list("/pod") == ["/pod/a", "/pod/a/deep", "/pod/b"]
    assert found.list("/") == ["/pod", "/pod/a", "/pod/a/deep", "/pod/b"]
    assert found.list("/none") == []
    assert found.exists("/pod/a")
    await found.remove("/pod")
    await found.remove("/pod")
    assert not found.exists("/pod")


async def test_a_cgroup_that_stays_busy_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "pod/file").touch()  # in an ordinary directory: ENOTEMPTY, as a busy cgroup says EBUSY
    with pytest.raises(OSError) as caught:
        await CgroupsV2(str(tmp_path)).remove("/pod", seconds=0.01)
    assert caught.value.filename == f"{tmp_path}/pod"


def test_a_storm_is_many_rounds_or_many_processes() -> None:
    assert not cgroup.is_storm(0, {1: 1})
    assert cgroup.is_storm(cgroup.STORM_ROUNDS, {1: 1})
    assert cgroup.is_storm(0, dict.fromkeys(range(cgroup.MAX_HELD), 0))


def test_no_pidfd_stays_when_there_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def open_two(pid: int) -> int:
        if len(opened) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(os.open("/dev/null", os.O_RDONLY))
        return opened[-1]

    monkeypatch.setattr(pidfd, "open", open_two)
    with pytest.raises(OSError, match="Too many open files"):
        cgroup.hold(range(1, 9))
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


class Ending(CgroupsV2):
    """One whose process is there at the first look only."""

    looks = 0

    def processes(self, path: str) -> list[int]:
        self.looks += 1
        return [os.getpid()] if self.looks == 1 else []

    def _end(self, path: str, round: int, held: Mapping[int, int]) -> None:
        return


async def test_who_ends_at_the_last_moment_did_not_outlive_it(tmp_path: Path) -> None:
    await Ending(str(tmp_path)).kill("/pod", seconds=0.0)
