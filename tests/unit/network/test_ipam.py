"""Subnets and addresses."""

from __future__ import annotations

import ipaddress

import pytest

from ropewalk.errors import Invalid, Kind
from ropewalk.network import ipam


def nets(*texts: str) -> list[ipam.Net]:
    return [ipaddress.ip_network(text) for text in texts]


def test_an_address_rests_as_long_as_others_are_free() -> None:
    pool = ipam.Range(ipaddress.ip_network("10.0.0.0/29"))
    assert str(pool.gateway) == "10.0.0.1"
    assert [str(pool.take()) for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.release(ipaddress.ip_address("10.0.0.2"))
    assert [str(pool.take()) for _ in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_network_gateway_and_broadcast_are_never_given() -> None:
    pool = ipam.Range(ipaddress.ip_network("10.0.0.0/29"))
    given = {str(pool.take()) for _ in range(5)}
    assert given == {f"10.0.0.{n}" for n in range(2, 7)}
    with pytest.raises(ipam.Exhausted, match=r"all 5 addresses of the pod subnet 10\.0\.0\.0/29") as caught:
        pool.take()
    assert caught.value.kind is Kind.EXHAUSTED


def test_the_last_ipv6_address_is_an_address() -> None:
    pool = ipam.Range(ipaddress.ip_network("fd00::/126"))
    assert [str(pool.take()) for _ in range(2)] == ["fd00::2", "fd00::3"]


def test_a_huge_subnet_costs_nothing() -> None:
    pool = ipam.Range(ipaddress.ip_network("fd00::/64"))
    pool.reserve(ipaddress.ip_address("fd00::2"))
    assert str(pool.take()) == "fd00::3"


def test_reserving_the_gateway_or_a_foreign_address_takes_nothing() -> None:
    pool = ipam.Range(ipaddress.ip_network("10.0.0.0/30"))
    for address in ("10.0.0.1", "10.0.0.3", "192.0.2.1"):
        pool.reserve(ipaddress.ip_address(address))
    assert str(pool.take()) == "10.0.0.2"


@pytest.mark.parametrize(
    ("text", "version", "words"),
    [
        ("10.88.0.0", 6, "not an IPv6 subnet"),
        ("fd00::/64", 4, "not an IPv4 subnet"),
        ("10.88.0.0/31", 4, "no room"),
        ("10.88.0.0/33", 4, "not a subnet"),
        ("pods", 4, "not a subnet"),
    ],
)
def test_a_subnet_that_cannot_be(text: str, version: int, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        ipam.parse_subnet(text, version=version, name="network.subnet")
    assert "network.subnet" in caught.value.message


def test_a_pod_cidr_has_one_or_two_families() -> None:
    four, six = nets("10.1.0.0/24", "fd01::/64")
    assert ipam.parse_pod_cidr("10.1.0.0/24") == (four, None)
    assert ipam.parse_pod_cidr("fd01::/64") == (None, six)
    assert ipam.parse_pod_cidr("fd01::/64, 10.1.0.0/24") == (four, six)
    assert ipam.parse_pod_cidr("10.1.0.9/24") == (four, None)
    assert ipam.parse_pod_cidr("") == (None, None)
    with pytest.raises(Invalid, match="two IPv4"):
        ipam.parse_pod_cidr("10.1.0.0/24,10.2.0.0/24")


def test_the_default_instance_takes_the_known_subnet() -> None:
    assert ipam.plan_subnet("0000", nets("0.0.0.0/0", "192.0.2.0/24"), default=True) == ipam.DEFAULT


def test_others_take_blocks_of_their_own() -> None:
    first, second = (ipam.plan_subnet(tag, [], default=False) for tag in ("beef", "cafe"))
    assert not first.overlaps(second)
    assert first.prefixlen == 20
    assert first.subnet_of(ipam.SPARE)
    assert ipam.plan_subnet("beef", [], default=False) == first


def test_what_is_routed_is_avoided() -> None:
    first = ipam.plan_subnet("beef", [], default=False)
    second = ipam.plan_subnet("beef", [first], default=False)
    assert not second.overlaps(first)
    assert not ipam.plan_subnet("0000", nets("10.88.7.0/24"), default=True).overlaps(ipam.DEFAULT)
    with pytest.raises(ipam.Exhausted, match=r"set network\.subnet"):
        ipam.plan_subnet("beef", nets("10.0.0.0/8"), default=False)


def test_ipv6_subnets_are_unique_local_and_stable() -> None:
    net = ipam.plan_subnet6("ropewalk")
    assert net == ipam.plan_subnet6("ropewalk") != ipam.plan_subnet6("ropewalk-beef")
    assert net.prefixlen == 64
    assert net.subnet_of(ipaddress.IPv6Network("fd00::/8"))


def test_a_hardware_address_is_local_and_follows_the_address() -> None:
    mac = ipam.hardware_address(ipaddress.ip_address("10.88.0.5"))
    assert mac.hex(":") == "02:52:0a:58:00:05"
    assert mac[0] & 0b11 == 0b10  # locally administered, one receiver
