"""The table in words."""

from __future__ import annotations

import ipaddress

from ropewalk.network import firewall, hostports
from ropewalk.network.ipam import Net
from ropewalk.spec.pod import PortMapping


def table(*subnets: str, elements: list[hostports.Entry] | None = None) -> str:
    nets: list[Net] = [ipaddress.ip_network(subnet) for subnet in subnets]
    return firewall.build_table("inet ropewalk", "ropewalk0", nets, elements or [])


def test_the_table_replaces_whatever_was_there_in_one_transaction() -> None:
    assert table("10.88.0.0/16").splitlines()[:3] == [
        "add table inet ropewalk",
        "delete table inet ropewalk",
        "table inet ropewalk {",
    ]


def test_braces_are_balanced() -> None:
    text = table("10.88.0.0/16", "fd00::/64")
    assert text.count("{") == text.count("}")


def test_unique_local_addresses_are_hidden_and_global_ones_are_not() -> None:
    assert "ip6 saddr { fd00::/64 } ip6 daddr != ff00::/8 masquerade" in table("10.88.0.0/16", "fd00::/64")
    public = table("10.88.0.0/16", "2001:db8::/64")
    assert "ip6 daddr != ff00::/8 masquerade" not in public
    assert "ct status dnat ip6 saddr { 2001:db8::/64 } masquerade" in public


def test_without_ipv6_there_is_no_rule_for_it() -> None:
    assert "ip6 saddr" not in table("10.88.0.0/16")


def test_subnets_in_a_set_do_not_overlap() -> None:
    text = table("10.88.0.0/16", "10.88.1.0/24", "10.77.0.0/24", "10.88.0.0/16")
    assert 'oifname != "ropewalk0" ip saddr { 10.88.0.0/16, 10.77.0.0/24 }' in text


def test_host_ports_are_elements_and_never_rules() -> None:
    elements = list(hostports.entries([PortMapping(container_port=80, host_port=8080)], ["10.88.0.5"]))
    assert table("10.88.0.0/16", elements=elements) == table("10.88.0.0/16") + hostports.add_commands(
        "inet ropewalk", elements
    )
