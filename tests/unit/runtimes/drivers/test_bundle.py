"""A bundle's files, without mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import Invalid, NotFound, RopewalkError, Unsupported
from ropewalk.linux import mount
from ropewalk.runtimes.drivers import bundle
from ropewalk.runtimes.handler import Task
from ropewalk.storage import snapshotter


def test_a_label_is_an_option_of_the_root_file_systems_mount() -> None:
    label = "u:r:t:s0:c1,c2"
    one = snapshotter.Mount(type="overlay", layers=["/l"], upper="/u", work="/w", options=["volatile"])
    assert bundle.labelled(one, label).options == ["volatile", f"context={label}"]
    assert one.options == ["volatile"]
    with pytest.raises(Unsupported, match="/copy"):
        bundle.labelled(snapshotter.Mount(type="bind", source="/copy"), label)


def test_what_undo_needs_is_read_back(tmp_path: Path) -> None:
    own = bundle.Bundle(str(tmp_path / "c1"))
    assert own.read_record() == bundle.Record()
    assert own.read_task() is None
    with pytest.raises(NotFound, match="c1"):
        own.read_config()
    own.make(bundle.Record(cgroup="/a/b", log_path="/l"))
    own.make(bundle.Record(cgroup="/a/b", log_path="/l"))
    own.write_task(Task(pid=1, pid_start=2, monitor_pid=3, monitor_start=4))
    own.write(b'{"ociVersion":"1.0.0"}')
    again = bundle.Bundle(str(tmp_path / "c1"))
    assert again.read_record() == bundle.Record(cgroup="/a/b", log_path="/l")
    assert again.read_task() == Task(pid=1, pid_start=2, monitor_pid=3, monitor_start=4)
    assert again.read_config() == {"ociVersion": "1.0.0"}


@pytest.mark.parametrize("content", ["", "x1"])
def test_a_pid_file_without_a_pid_is_said(tmp_path: Path, content: str) -> None:
    own = bundle.Bundle(str(tmp_path / "c1"))
    own.make(bundle.Record())
    Path(own.pid_file).write_text(content)
    with pytest.raises(RopewalkError, match=f"c1: the runtime left b'{content}'"):
        own.read_init()


def test_what_its_maker_removes_meanwhile_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = bundle.Bundle(str(tmp_path / "c1"))
    own.make(bundle.Record())
    monkeypatch.setattr(os, "listdir", lambda directory: ["plan.json", "rootfs", "exec-1.pid"])
    own.remove()
    assert not os.path.lexists(own.directory)


def test_the_runtimes_error_is_read_from_its_log(tmp_path: Path) -> None:
    own = bundle.Bundle(str(tmp_path))
    assert own.read_error() == ""
    Path(own.log).write_text('{"level":"error","msg":"no"}\n')
    assert own.read_error() == "no"


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        ({"/": True}, True),
        ({"/": False}, False),
        ({"/": True, "/run": False}, False),
        ({"/": False, "/run": True}, True),
    ],
)
def test_propagation_is_that_of_the_mount_above(
    monkeypatch: pytest.MonkeyPatch, shared: dict[str, bool], expected: bool
) -> None:
    lines = [
        mount.parse_line(f"{20 + n} 1 0:{n} / {target} rw {'shared:1 ' if is_shared else ''}- tmpfs tmpfs rw")
        for n, (target, is_shared) in enumerate(shared.items())
    ]
    monkeypatch.setattr(mount, "mounts", lambda: lines)
    assert bundle.is_propagating("/run/ropewalk/containers") is expected


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("target", ["/", "/etc", "../../..", "absent"])
def test_links_that_runtimes_would_follow_are_refused(tmp_path: Path, name: str, target: str) -> None:
    bundle.check_rootfs(str(tmp_path))  # absent is fine
    (tmp_path / name).symlink_to(target)
    with pytest.raises(Invalid, match=f"/{name} of the image is a link to '{target}'"):
        bundle.check_rootfs(str(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    bundle.check_rootfs(str(tmp_path))
