"""Who has which host port, and nftables' words for it."""

from __future__ import annotations

import pytest

from ropewalk.errors import Invalid, Kind
from ropewalk.network import hostports
from ropewalk.spec.pod import PortMapping, Protocol


def mapping(
    host_port: int = 8080, host_ip: str = "", protocol: Protocol = Protocol.TCP, target: int = 80
) -> PortMapping:
    return PortMapping(protocol=protocol, container_port=target, host_port=host_port, host_ip=host_ip)


@pytest.mark.parametrize(
    ("held", "asked", "conflict"),
    [
        ("", "", True),
        ("", "0.0.0.0", True),
        ("", "::", True),
        ("", "192.0.2.1", True),
        ("", "2001:db8::1", True),
        ("0.0.0.0", "", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::", False),
        ("0.0.0.0", "2001:db8::1", False),
        ("::", "2001:db8::1", True),
        ("::", "192.0.2.1", False),
        ("192.0.2.1", "", True),
        ("192.0.2.1", "0.0.0.0", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
    ],
)
def test_two_pods_conflict_where_one_packet_would_match_both(held: str, asked: str, conflict: bool) -> None:
    ports = hostports.Ports()
    ports.reserve("first", [mapping(host_ip=held)])
    ports.check("first", [mapping(host_ip=asked)])
    ports.check("second", [mapping(8081, asked), mapping(host_ip=asked, protocol=Protocol.UDP)])
    if not conflict:
        ports.check("second", [mapping(host_ip=asked)])
        return
    with pytest.raises(hostports.PortConflict, match="pod first") as caught:
        ports.check("second", [mapping(host_ip=asked)])
    assert caught.value.kind is Kind.STATE


def test_a_released_port_is_free() -> None:
    ports = hostports.Ports()
    ports.reserve("first", [mapping()])
    assert ports.holds("first")
    ports.release("first")
    assert not ports.holds("first")
    ports.check("second", [mapping()])


def test_mappings_without_a_host_port_ask_for_nothing() -> None:
    assert hostports.parse_mappings([mapping(host_port=0, target=0)], ipv6=True) == []


def test_a_mapping_given_twice_is_one() -> None:
    assert hostports.parse_mappings([mapping(), mapping()], ipv6=True) == [mapping()]
    both = [mapping(), mapping(protocol=Protocol.UDP)]
    assert hostports.parse_mappings(both, ipv6=True) == both


@pytest.mark.parametrize(
    ("mappings", "words"),
    [
        ([mapping(65536)], "host_port is 65536"),
        ([mapping(-1)], "host_port is -1"),
        ([mapping(target=0)], "container_port is 0"),
        ([mapping(host_ip="localhost")], "'localhost' is not an address"),
        ([mapping(host_ip="::1")], "no route_localnet"),
        ([mapping(), mapping(target=81)], "contradicts"),
        ([mapping(), mapping(target=81, host_ip="192.0.2.1")], "contradicts"),
        ([mapping(host_ip="192.0.2.1"), mapping(target=81)], "contradicts"),
    ],
)
def test_what_cannot_be_is_refused(mappings: list[PortMapping], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        hostports.parse_mappings(mappings, ipv6=True)


def test_an_ipv6_address_where_pods_have_none() -> None:
    with pytest.raises(Invalid, match="pods have no IPv6"):
        hostports.parse_mappings([mapping(host_ip="2001:db8::1")], ipv6=False)


IPS = ["10.88.0.5", "fd00::5"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (mapping(), [("any4", "tcp . 8080", "10.88.0.5 . 80"), ("any6", "tcp . 8080", "fd00::5 . 80")]),
        (mapping(host_ip="0.0.0.0"), [("any4", "tcp . 8080", "10.88.0.5 . 80")]),
        (mapping(host_ip="::"), [("any6", "tcp . 8080", "fd00::5 . 80")]),
        (
            mapping(host_ip="127.0.0.1", protocol=Protocol.UDP),
            [("at4", "127.0.0.1 . udp . 8080", "10.88.0.5 . 80")],
        ),
        (
            mapping(host_ip="2001:db8:0::1", protocol=Protocol.SCTP),
            [("at6", "2001:db8::1 . sctp . 8080", "fd00::5 . 80")],
        ),
    ],
)
def test_the_elements_of_a_mapping(asked: PortMapping, expected: list[tuple[str, str, str]]) -> None:
    assert list(hostports.entries([asked], IPS)) == expected
    assert {element[0] for element in expected} <= set(hostports.MAPS)


def test_a_pod_without_ipv6_has_no_ipv6_element() -> None:
    assert [element.map for element in hostports.entries([mapping()], IPS[:1])] == ["any4"]


def test_elements_are_added_with_one_command_per_map() -> None:
    elements = hostports.entries([mapping(), mapping(8081)], IPS)
    assert hostports.add_commands("inet t", elements).splitlines() == [
        "add element inet t any4 { tcp . 8080 : 10.88.0.5 . 80, tcp . 8081 : 10.88.0.5 . 80 }",
        "add element inet t any6 { tcp . 8080 : fd00::5 . 80, tcp . 8081 : fd00::5 . 80 }",
    ]


def test_elements_are_removed_whether_or_not_they_are_there() -> None:
    elements = hostports.entries([mapping(host_ip="0.0.0.0")], IPS)
    assert hostports.remove_commands("inet t", elements).splitlines() == [
        "add element inet t any4 { tcp . 8080 : 10.88.0.5 . 80 }",
        "delete element inet t any4 { tcp . 8080 }",
    ]


def test_the_listing_of_nft_is_read() -> None:
    listing = """{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "inet", "name": "t"}},
      {"map": {"family": "inet", "name": "any4", "elem": [[{"concat": ["tcp", 8080]}, {"concat": ["10.88.0.5", 80]}]]}},
      {"map": {"family": "inet", "name": "at4"}}, {"map": {"name": "theirs", "elem": [[1, 2]]}}]}"""
    assert hostports.parse_elements(listing) == [("any4", "tcp . 8080", "10.88.0.5 . 80")]


def test_a_mapping_in_words() -> None:
    assert hostports.describe(mapping(host_ip="::")) == "tcp [::]:8080 -> 80"
    assert hostports.describe(mapping()) == "tcp :8080 -> 80"


def test_plugins_may_serve_ipv6_loopback() -> None:
    asked = [mapping(host_ip="::1")]
    with pytest.raises(Invalid, match="::1"):
        hostports.parse_mappings(asked, ipv6=True)
    assert hostports.parse_mappings(asked, ipv6=True, loopback6=True) == asked
