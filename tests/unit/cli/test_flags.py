"""docker's flags, parsed."""

from __future__ import annotations

import os

import pytest

from ropewalk.cli import flags
from ropewalk.errors import Invalid, Unsupported
from ropewalk.spec.container import KeyValue, Mount, MountPropagation
from ropewalk.spec.pod import PortMapping, Protocol


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("8080:80", PortMapping(Protocol.TCP, 80, 8080, "")),
        ("53:5353/udp", PortMapping(Protocol.UDP, 5353, 53, "")),
        ("127.0.0.1:8080:80", PortMapping(Protocol.TCP, 80, 8080, "127.0.0.1")),
        ("[::1]:8080:80/tcp", PortMapping(Protocol.TCP, 80, 8080, "::1")),
    ],
)
def test_ports(text: str, mapping: PortMapping) -> None:
    assert flags.parse_port(text) == mapping


@pytest.mark.parametrize(
    "text",
    ["80", "", ":", "0:80", "80:", "1:65536", "a:b", "80:80/icmp", "300.1.1.1:80:80", "80-90:80-90", "[::1]80:80"],
)
def test_what_is_no_port_mapping(text: str) -> None:
    with pytest.raises(Invalid, match="port"):
        flags.parse_port(text)


def test_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flags.parse_volume("/a:/b") == Mount(container_path="/b", host_path="/a")
    assert flags.parse_volume("/a/../c:/b:ro") == Mount(container_path="/b", host_path="/c", readonly=True)
    assert flags.parse_volume("/a:/b:rw,rshared").propagation is MountPropagation.BIDIRECTIONAL
    monkeypatch.chdir("/tmp")
    assert flags.parse_volume("./x:/b").host_path == "/tmp/x"


@pytest.mark.parametrize("text", ["/a", "/a:b", ":/b", "/a:/b:rx"])
def test_what_is_no_volume(text: str) -> None:
    with pytest.raises(Invalid):
        flags.parse_volume(text)


def test_named_volumes_do_not_exist() -> None:
    with pytest.raises(Unsupported, match="named volumes"):
        flags.parse_volume("data:/data")


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"COLOUR", b"r\xffd")
    monkeypatch.delenv("NOSUCH", raising=False)
    assert flags.parse_variable("A=b=c") == KeyValue("A", b"b=c")
    assert flags.parse_variable("A=") == KeyValue("A", b"")
    assert flags.parse_variable("COLOUR") == KeyValue("COLOUR", b"r\xffd")
    assert flags.parse_variable("NOSUCH") is None
    with pytest.raises(Invalid):
        flags.parse_variable("=x")


def test_labels() -> None:
    assert flags.parse_labels(["a=b=c", "d"]) == {"a": "b=c", "d": ""}
    with pytest.raises(Invalid):
        flags.parse_labels(["=x"])


def test_users() -> None:
    assert flags.parse_user("1000") == (1000, "", None)
    assert flags.parse_user("1000:50") == (1000, "", 50)
    assert flags.parse_user("tester:50") == (None, "tester", 50)
    with pytest.raises(Unsupported, match="takes a number"):
        flags.parse_user("tester:staff")
    for text in ("", ":1", "a:", "99999999999999999999", "1:2147483648"):
        with pytest.raises(Invalid):
            flags.parse_user(text)


def test_capabilities() -> None:
    assert flags.parse_capabilities(["cap_net_admin,SYS_TIME", "ALL"]) == ["NET_ADMIN", "SYS_TIME", "ALL"]


def test_cpus() -> None:
    assert (flags.cpu_quota(0), flags.cpu_quota(1.5)) == (0, 150_000)
    for cpus in (-1, 0.001, float("nan"), float("inf"), 1e18):
        with pytest.raises(Invalid):
            flags.cpu_quota(cpus)
