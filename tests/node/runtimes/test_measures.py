"""What a probe finds out beyond "works" is what was tried, not what a version promises."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.linux import features, mount
from ropewalk.runtimes.drivers import idmap
from ropewalk.runtimes.handler import Node
from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Place


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    for directory in (tmp_path, *tmp_path.parents):  # as /run/ropewalk: others pass through
        if not directory.stat().st_mode & 0o001:
            directory.chmod(0o711)
    place = Place(tmp_path)
    yield place
    await place.close()


async def test_what_works_here_is_offered(place: Place) -> None:
    handler = crun.Handler(crun.Config(), place.node)
    assert not handler.capabilities.user_namespaces
    probe = await handler.probe()
    assert "recursive read-only mounts: yes; user namespaces: yes" in probe.evidence
    assert (handler.capabilities.user_namespaces, handler.capabilities.recursive_read_only) == (True, True)
    assert place.found() == []


async def test_a_state_directory_whose_programs_may_not_run(place: Place) -> None:
    """Debian's initramfs mounts /run so, and it stays."""
    mount.mount("tmpfs", place.state, "tmpfs", mount.MS_NOEXEC | mount.MS_NOSUID | mount.MS_NODEV, "mode=0711")
    handler = crun.Handler(crun.Config(), handler_node(place))
    probe = await handler.probe()
    assert "recursive read-only mounts: yes; user namespaces: yes" in probe.evidence
    left = [path for path in place.found() if path != place.state]
    assert left == []


def handler_node(place: Place) -> Node:
    """Its layers are where images are, not in the state directory."""
    return place.node._replace(layers=place.snapshots)


async def test_a_kernel_without_idmapped_mounts_has_no_user_namespaces(place: Place) -> None:
    handler = crun.Handler(crun.Config(), place.node)
    with features.force_off("idmapped"):
        probe = await handler.probe()
    assert probe.works
    assert not handler.capabilities.user_namespaces
    assert "user namespaces: no" in probe.evidence
    assert place.found() == []
    assert not [name for name in os.listdir(place.state) if name.startswith("probe-")]


async def test_a_kernel_that_cannot_stack_mapped_layers_has_no_user_namespaces(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.19 answers so."""

    def refuse(target: str, **_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), target)

    monkeypatch.setattr(mount, "overlay", refuse)
    handler = crun.Handler(crun.Config(), place.node)
    probe = await handler.probe()
    assert probe.works
    assert "user namespaces: no, overlayfs does not take idmapped layers" in probe.evidence
    assert not handler.capabilities.user_namespaces


async def test_a_root_file_system_that_is_a_bind_is_mapped_itself(place: Place) -> None:
    """The native snapshotter's: files are stored with the ids that the container sees."""
    from ropewalk.linux import userns
    from ropewalk.storage.snapshotter import Mount

    pins = {"user": f"{place.state}/user"}
    target = Path(place.state, "target")
    target.mkdir()
    userns.make(pins, [userns.Range(0, 1 << 20, 65536)], [userns.Range(0, 1 << 20, 65536)])
    try:
        idmap.mount_rootfs(Mount(type="bind", source=place.image, options=["rw"]), str(target), "", pins["user"])
        assert (target / "bin").stat().st_uid == 1 << 20
        mount.umount(str(target))
        idmap.mount_rootfs(Mount(type="bind", source=place.image, options=["ro"]), str(target), "", pins["user"])
        with pytest.raises(OSError, match="Read-only"):
            (target / "file").touch()
    finally:
        mount.umount_all(str(target))
        mount.umount_all(pins["user"])
