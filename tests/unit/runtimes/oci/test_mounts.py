"""Mounts: order, replacement, propagation, options, refusals; and the look at the node."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from ropewalk import errors
from ropewalk.linux import mount as linux_mount
from ropewalk.runtimes.oci import devices, facts, mounts, resolve
from ropewalk.spec import container, image, pod
from tests.unit.runtimes.oci import samples

PRIVATE, SLAVE, SHARED = container.MountPropagation
Mount = container.Mount


def build(
    *requested: Mount, propagation: str = "", readonly: bool = False, privileged: bool = False, rro: bool = False
) -> list[dict[str, Any]]:
    return mounts.build(
        [facts.ResolvedMount(mount, "/real" + mount.host_path, propagation) for mount in requested],
        samples.FILES,
        readonly_rootfs=readonly,
        privileged=privileged,
        facts=facts.NodeFacts(recursive_read_only=rro),
    )


def at(path: str, *requested: Mount, **flags: Any) -> dict[str, Any]:
    (found,) = [mount for mount in build(*requested, **flags) if mount["destination"] == path]
    return found


def bind(path: str, **fields: Any) -> Mount:
    return Mount(container_path=path, host_path="/h", **fields)


def options(**fields: Any) -> list[str]:
    found: list[str] = at("/data", bind("/data", **fields), rro=True)["options"]
    return found


def test_defaults_in_order_of_depth() -> None:
    paths = [mount["destination"] for mount in build()]
    assert paths[:3] == ["/proc", "/dev", "/sys"]
    assert sorted(paths, key=lambda path: path.count("/")) == paths
    assert set(paths) == {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", *samples.FILES}


def test_parents_come_before_children_whatever_the_request_order() -> None:
    paths = [mount["destination"] for mount in build(bind("/a/b/c"), bind("/a/b"), bind("/a"), bind("/b"))]
    assert [path for path in paths if path.startswith(("/a", "/b"))] == ["/a", "/b", "/a/b", "/a/b/c"]


def test_a_request_replaces_the_default_at_its_place() -> None:
    assert at("/etc/hosts", bind("/etc/hosts"))["source"] == "/real/h"
    assert at("/sys", bind("/sys/"))["type"] == "bind"
    assert at("/etc/resolv.conf", bind("/etc//resolv.conf"))["source"] == "/real/h"
    paths = {mount["destination"] for mount in build(bind("/dev"))}
    assert not [path for path in paths if path.startswith("/dev/")]
    assert {"/proc", "/sys", "/etc/hosts", "/dev"} <= paths
    inside = {mount["destination"] for mount in build(bind("/dev"), bind("/dev/shm"))}
    assert "/dev/shm" in inside


def test_pod_files_follow_the_root_file_system() -> None:
    assert "rw" in at("/etc/hosts")["options"]
    assert "ro" in at("/etc/hosts", readonly=True)["options"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(at("/dev/shm", readonly=True)["options"])


def test_only_privileged_writes_sys_and_cgroups() -> None:
    for path in ("/sys", "/sys/fs/cgroup"):
        assert "ro" in at(path)["options"]
        assert "rw" in at(path, privileged=True)["options"]


def test_options() -> None:
    assert options() == ["rbind", "rprivate", "rw"]
    assert options(readonly=True) == ["rbind", "rprivate", "ro"]
    assert options(propagation=SLAVE) == ["rbind", "rslave", "rw"]
    assert options(propagation=SHARED, readonly=True) == ["rbind", "rshared", "ro"]
    assert options(readonly=True, recursive_read_only=True) == ["rbind", "rprivate", "rro"]
    assert options(mount_options=["noexec", "rw", "nodev", "exec", "nodev"]) == [
        "rbind",
        "rprivate",
        "rw",
        "exec",
        "nodev",
    ]


def test_rootfs_propagation_is_as_open_as_the_mounts() -> None:
    def of(*modes: container.MountPropagation) -> str:
        return mounts.rootfs_propagation([facts.ResolvedMount(bind("/x", propagation=mode), "/y") for mode in modes])

    assert [of(), of(PRIVATE), of(PRIVATE, SLAVE), of(SLAVE, SHARED, PRIVATE)] == ["", "", "rslave", "rshared"]


@pytest.mark.parametrize(
    ("mode", "source", "good"),
    [
        (SHARED, "shared", True), (SHARED, "slave", False), (SHARED, "private", False), (SHARED, "", True),
        (SLAVE, "shared", True), (SLAVE, "slave", True), (SLAVE, "private", False), (PRIVATE, "private", True),
    ],
)  # fmt: skip
def test_propagation_that_the_source_lacks_is_refused(
    mode: container.MountPropagation, source: str, good: bool
) -> None:
    if good:
        build(bind("/x", propagation=mode), propagation=source)
        return
    with pytest.raises(errors.Invalid, match=f"lies on a {source} mount"):
        build(bind("/x", propagation=mode), propagation=source)


@pytest.mark.parametrize(
    ("mount", "named"),
    [
        (Mount(container_path="data", host_path="/h"), "container_path 'data'"),
        (Mount(container_path="", host_path="/h"), "container_path ''"),
        (Mount(container_path="/a/../b", host_path="/h"), "container_path '/a/../b'"),
        (Mount(container_path="/", host_path="/h"), "container_path '/'"),
        (Mount(container_path="/a/.//", host_path="h"), "the mount at /a has host_path 'h'"),
        (Mount(container_path="/a", host_path=""), "host_path ''"),
        (Mount(container_path="/a\0", host_path="/h"), "container_path"),
        (bind("/a", mount_options=["loop"]), "mount option 'loop'"),
        (bind("/a", mount_options=["ro"]), "mount option 'ro' and readonly False"),
        (bind("/a", mount_options=["rw"], readonly=True), "mount option 'rw' and readonly True"),
        (bind("/a", recursive_read_only=True), "is recursive_read_only and not readonly"),
        (bind("/a", recursive_read_only=True, readonly=True, propagation=SLAVE), "propagation HOST_TO_CONTAINER"),
        (bind("/a", recursive_read_only=True, readonly=True, propagation=SHARED), "propagation BIDIRECTIONAL"),
        (bind("/a", image=image.ImageSpec("i"), readonly=True), "both an image and host_path"),
        (Mount(container_path="/a", image=image.ImageSpec("i")), "is not readonly"),
    ],
)
def test_bad_mounts_are_refused(mount: Mount, named: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        build(mount, rro=True)
    assert named in str(caught.value)


def test_what_is_not_built_is_said_with_the_kubelets_words() -> None:
    with pytest.raises(errors.Unsupported) as caught:
        build(bind("/a", readonly=True, recursive_read_only=True))
    assert str(caught.value).startswith("RROUnsupported")
    with pytest.raises(errors.Unsupported) as caught:
        build(Mount(container_path="/a", readonly=True, image=image.ImageSpec("i")))
    assert str(caught.value).startswith("ImageVolumeMountFailed")
    with pytest.raises(errors.Invalid, match="uidMappings"):
        build(bind("/a", uidMappings=[pod.IDMapping(0, 0, 1)]))


def test_host_paths_are_followed_and_must_exist(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (found,) = resolve.read_mounts([Mount(container_path="/a", host_path=str(tmp_path / "link"))])
    assert found.source == str(tmp_path / "real")
    with pytest.raises(errors.Invalid, match="No such file"):
        resolve.read_mounts([Mount(container_path="/a", host_path=str(tmp_path / "absent"))])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(errors.Invalid, match="symbolic links"):
        resolve.read_mounts([Mount(container_path="/a", host_path=str(tmp_path / "loop"))])


def test_propagation_is_that_of_the_last_and_deepest_mount() -> None:
    table = [
        linux_mount.parse_line("1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw"),
        linux_mount.parse_line("2 1 0:5 / /srv rw - tmpfs tmpfs rw"),
        linux_mount.parse_line("3 2 0:6 / /srv rw master:7 - tmpfs tmpfs rw"),
        linux_mount.parse_line("4 1 0:7 / /srvx rw shared:9 master:7 - tmpfs tmpfs rw"),
    ]
    expected = {"/": "shared", "/home": "shared", "/srv": "slave", "/srv/a": "slave", "/srvx/b": "shared"}
    assert {path: resolve.propagation_of(path, table) for path in expected} == expected
    assert resolve.propagation_of("/srv", table[:2]) == "private"
    assert resolve.propagation_of("/srv", []) == ""


def test_devices_are_denied_by_default() -> None:
    fuse = facts.HostDevice("/dev/fuse", "c", 10, 229, permissions="rw")
    rules = devices.rules([fuse], privileged=False)
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert all(rule["allow"] for rule in rules[1:])
    assert rules[-1] == {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    assert not [rule for rule in rules[1:] if rule["type"] == "b"]
    assert devices.rules([fuse], privileged=True) == [{"allow": True, "access": "rwm"}]


def test_device_nodes_leave_out_the_runtimes_own_and_let_the_last_win() -> None:
    null = facts.HostDevice("/dev/null", "c", 1, 3)
    pty = facts.HostDevice("/dev/pts/3", "c", 136, 3)
    first, second = facts.HostDevice("/dev/x", "c", 9, 9), facts.HostDevice("/dev/x", "b", 8, 0)
    assert [node["type"] for node in devices.nodes([null, pty, first, second])] == ["b"]


@pytest.mark.parametrize(
    ("device", "named"),
    [
        (container.Device("dev", "/dev/a", "r"), "container_path 'dev'"),
        (container.Device("/dev/a", "/dev/../a", "r"), "host_path '/dev/../a'"),
        (container.Device("/dev/a", "/dev/a", "rx"), "permissions 'rx'"),
    ],
)
def test_bad_devices_are_refused(device: container.Device, named: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        devices.check(device)
    assert named in str(caught.value)


def test_devices_are_looked_up(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    (found,) = resolve.read_devices([container.Device("/dev/zilch", str(tmp_path / "link"), "r")])
    assert (found.path, found.type, found.major, found.minor, found.permissions) == ("/dev/zilch", "c", 1, 3, "r")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "other")
    tree = resolve.read_devices([container.Device("/dev/t", str(tmp_path))])
    assert [device.path for device in tree] == ["/dev/t/fifo", "/dev/t/sub/other"]
    for bad in (tmp_path / "absent", pathlib.Path("/etc/passwd")):
        with pytest.raises(errors.Invalid, match="device"):
            resolve.read_devices([container.Device("/dev/a", str(bad))])


def test_node_devices_leave_out_terminals_and_shared_memory() -> None:
    found = {device.path for device in resolve.read_node_devices()}
    assert "/dev/null" in found
    assert not [path for path in found if path.startswith(("/dev/pts", "/dev/shm", "/dev/fd"))]


def test_a_profile_file_is_read_with_a_bound(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.json").write_bytes(b"x" * 100)
    assert len(resolve.read_seccomp_profile(str(tmp_path / "p.json"), 10)) == 11
    with pytest.raises(errors.Invalid, match="No such file"):
        resolve.read_seccomp_profile(str(tmp_path / "absent"), 10)
