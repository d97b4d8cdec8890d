from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.linux import mount

LINES = [
    (
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
        mount.MountInfo(
            36, 35, "98:0", "/mnt1", "/mnt2", "rw,noatime", "master:1", "ext3", "/dev/root", "rw,errors=continue"
        ),
    ),
    (
        "22 27 0:21 / /proc rw,relatime - proc proc rw",
        mount.MountInfo(22, 27, "0:21", "/", "/proc", "rw,relatime", "", "proc", "proc", "rw"),
    ),
    (
        r"1 2 0:5 / /a\040b\134c\011d\043 rw shared:3 master:4 - tmpfs none\040x rw",
        mount.MountInfo(1, 2, "0:5", "/", "/a b\\c\td#", "rw", "shared:3 master:4", "tmpfs", "none x", "rw"),
    ),
    (
        "1 2 0:5 / /x rw - overlay  rw",
        mount.MountInfo(1, 2, "0:5", "/", "/x", "rw", "", "overlay", "", "rw"),
    ),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_mountinfo_lines(line: str, expected: mount.MountInfo) -> None:
    assert mount.parse_line(line + "\n") == expected


def test_names_that_are_no_unicode_survive(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(b"1 2 0:5 / /x\xff rw - tmpfs none rw\n")
    assert mount.mounts(str(file))[0].target == "/x\udcff"


def test_this_machine_has_proc_mounted() -> None:
    assert any(found.type == "proc" and found.target == "/proc" for found in mount.mounts())
    assert mount.is_mount("/proc")
    assert not mount.is_mount("/proc/self")
    assert not mount.is_mount("/nonexistent/deeper")
    assert mount.filesystem_magic("/proc") == 0x9FA0


def test_mount_data_beyond_a_page_is_refused_before_the_kernel_cuts_it() -> None:
    with pytest.raises(OSError, match="exceeds 4095"):
        mount.mount("overlay", "/nonexistent", "overlay", data="x" * 4096)


@pytest.mark.parametrize(
    ("option", "quoted"),
    [("volatile", "volatile"), ("size=1", "size=1"), ("context=u:r:t:s0:c1,c2", 'context="u:r:t:s0:c1,c2"')],
)
def test_values_with_commas_are_quoted_in_mount_data(option: str, quoted: str) -> None:
    assert mount.quote(option) == quoted
