"""Namespaces on the real kernel, pinned in a directory of their own."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import mount, namespaces, spawn


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[dict[str, str]]:
    pins = {kind: str(tmp_path / kind) for kind in ("net", "ipc", "uts")}
    yield pins
    for path in pins.values():
        namespaces.unpin(path)
    assert [found.target for found in mount.mounts() if found.target.startswith(str(tmp_path))] == []


def read(sysctl: str) -> str:
    return Path("/proc/sys", sysctl).read_text().strip()


def test_made_in_one_go_and_none_of_the_nodes_own_changes(pins: dict[str, str]) -> None:
    before = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in pins}
    name = socket.gethostname()
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "12345", "fs.mqueue.msg_max": "20"}
    node = {path: read(path) for path in map(namespaces.sysctl_path, sysctls)}
    namespaces.make(["net", "ipc", "uts"], pins, hostname="box", sysctls=sysctls)
    for kind, path in pins.items():
        assert namespaces.is_pinned(path)
        assert f"{kind}:[{os.stat(path).st_ino}]" != before[kind]
    inside = namespaces.inside(pins, lambda: {path: read(path) for path in node})
    assert list(inside.values()) == list(sysctls.values())
    assert namespaces.inside({"uts": pins["uts"]}, socket.gethostname) == "box"
    assert namespaces.inside({"net": pins["net"]}, socket.if_nameindex) == [(1, "lo")]
    assert {path: read(path) for path in node} == node
    assert socket.gethostname() == name
    assert {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in pins} == before


def test_settings_can_be_changed_later(pins: dict[str, str]) -> None:
    namespaces.make(["net", "uts"], pins)
    namespaces.set_hostname(pins["uts"], "later")
    assert namespaces.inside({"uts": pins["uts"]}, socket.gethostname) == "later"
    namespaces.write_sysctls({"net": pins["net"]}, {"net.ipv4.conf.lo.forwarding": "1"})
    assert namespaces.inside({"net": pins["net"]}, lambda: read("net/ipv4/conf/lo/forwarding")) == "1"
    with pytest.raises(errors.Invalid, match="no sysctl"):
        namespaces.write_sysctls({"net": pins["net"]}, {"net.no.such": "1"})
    with pytest.raises(errors.Invalid, match="was refused"):
        namespaces.write_sysctls({"net": pins["net"]}, {"net.ipv4.ip_forward": "many"})
    with pytest.raises(errors.Invalid, match="would change the node"):
        namespaces.write_sysctls({"net": pins["net"]}, {"kernel.msgmax": "1"})


def test_a_failure_leaves_nothing_pinned(pins: dict[str, str]) -> None:
    with pytest.raises(errors.Invalid):
        namespaces.make(["net", "ipc"], pins, sysctls={"net.no.such": "1"})
    assert not any(os.path.exists(path) for path in pins.values())
    with pytest.raises(FileNotFoundError):
        namespaces.make(["ipc", "uts"], {**pins, "uts": "/nowhere/uts"})
    assert not any(os.path.exists(path) for path in pins.values())


def test_unpin_is_idempotent_also_for_a_pin_made_half(pins: dict[str, str]) -> None:
    Path(pins["net"]).touch()  # killed between the file and its mount
    assert not namespaces.is_pinned(pins["net"])
    for _ in range(2):
        namespaces.unpin(pins["net"])
    assert not os.path.exists(pins["net"])


def test_a_socket_made_inside_stays_inside(pins: dict[str, str]) -> None:
    namespaces.make(["net"], pins)
    made = namespaces.inside({"net": pins["net"]}, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    with made, pytest.raises(OSError, match="unreachable"):
        made.connect(("127.0.0.1", 9))  # lo is down in there


async def test_the_namespace_of_a_process_can_be_pinned(pins: dict[str, str]) -> None:
    child = spawn.spawn(["unshare", "--ipc", "sleep", "60"])
    own = os.stat("/proc/self/ns/ipc").st_ino
    while os.stat(f"/proc/{child.pid}/ns/ipc").st_ino == own:
        time.sleep(0.001)
    namespaces.pin(child.pid, "ipc", pins["ipc"])
    child.kill()
    await child.wait()
    assert os.stat(pins["ipc"]).st_ino != own
    assert namespaces.is_pinned(pins["ipc"])


def test_the_path_that_cannot_be_joined_is_named(pins: dict[str, str]) -> None:
    namespaces.make(["ipc"], pins)
    with pytest.raises(OSError) as caught:
        namespaces.inside({"net": pins["ipc"]}, os.getpid)
    assert caught.value.filename == pins["ipc"]
    with pytest.raises(FileNotFoundError):
        namespaces.inside({"net": "/nowhere"}, os.getpid)
