"""The node's packet filter: our own nftables table, and what other people's rules do to us.

Nothing outside `table inet <instance>` is ever written. The table has a fixed set of rules; pods with host ports are
elements of its maps (hostports.py), pods without are not in it at all.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable

from ropewalk.linux import iptables, netlink, nft
from ropewalk.network import hostports
from ropewalk.network.ipam import UNIQUE_LOCAL, Net

# The first NAT rule that matches a connection decides. Ours come after kube-proxy's and other people's at the usual
# priorities (-100 and 100), so a host port never takes a service's traffic (CVE-2019-9946).
_MAPS = {
    "any4": "inet_proto . inet_service : ipv4_addr . inet_service",
    "any6": "inet_proto . inet_service : ipv6_addr . inet_service",
    "at4": "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
    "at6": "ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service",
}

_RULES = """
  chain guard {{
    type filter hook prerouting priority -310; policy accept;
    # route_localnet on the bridge must not open 127.0.0.0/8 to pods, nor to the node's neighbours (CVE-2020-8558)
    iif != "lo" ip daddr 127.0.0.0/8 drop
    iif != "lo" ip saddr 127.0.0.0/8 drop
  }}
  chain hostports {{
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
    dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain prerouting {{
    type nat hook prerouting priority -90; policy accept;
    # only what is addressed to the node: never the port of another machine (CVE-2025-67499)
    fib daddr type local jump hostports
  }}
  chain output {{
    type nat hook output priority -90; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump hostports
  }}
  chain postrouting {{
    type nat hook postrouting priority 110; policy accept;
    # from loopback, and from pods to a host port: the answer must come back through the node
{back}
{out}
  }}
"""


def build_table(table: str, bridge: str, subnets: Collection[Net], elements: Iterable[hostports.Entry]) -> str:
    """nft commands that make the whole table as it must be, whatever was there, in one transaction.

    `table`: "inet ropewalk". `subnets`: all that pods have addresses in. IPv4 is always masqueraded on its way out,
    IPv6 only where nobody outside could answer (unique local addresses)."""
    four = _words([net for net in subnets if net.version == 4])
    inside6 = _words([net for net in subnets if net.version == 6])
    hidden6 = _words([net for net in subnets if net.version == 6 and net.subnet_of(UNIQUE_LOCAL)])
    back = [f'    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {four} }} masquerade']
    out = [f'    oifname != "{bridge}" ip saddr {{ {four} }} ip daddr != 224.0.0.0/4 masquerade']
    if inside6:
        back.append(f'    oifname "{bridge}" ct status dnat ip6 saddr {{ {inside6} }} masquerade')
    if hidden6:
        out.append(f'    oifname != "{bridge}" ip6 saddr {{ {hidden6} }} ip6 daddr != ff00::/8 masquerade')
    maps = "".join(f"  map {name} {{ type {kind}; }}\n" for name, kind in _MAPS.items())
    rules = _RULES.format(back="\n".join(back), out="\n".join(out))
    # Adding first makes the deletion succeed on a node that has no such table.
    made = f"add table {table}\ndelete table {table}\ntable {table} {{\n{maps}{rules}}}\n"
    return made + hostports.add_commands(table, elements)


def _words(subnets: Collection[Net]) -> str:
    """The elements of an nft set, which must not overlap: subnets of one family, without those inside another."""
    inside = [net for net in subnets for other in subnets if net.prefixlen > other.prefixlen and net.overlaps(other)]
    return ", ".join(dict.fromkeys(str(net) for net in subnets if net not in inside))


def forward_blocks(sock: netlink.Socket, chains: Iterable[nft.Chain], bridge: str) -> list[str]:
    """Who drops forwarded packets by policy without a rule that names the bridge: pods are then cut off from outside.
    Each in words, with the command that lets them through."""
    found = []
    for chain in chains:
        if chain.hook != nft.FORWARD or not chain.drops or chain.family not in _FAMILIES:
            continue
        if not nft.rules_name(sock, chain, bridge):
            where = f"{_FAMILIES[chain.family]} {chain.table} {chain.name}"
            found.append(
                f"the nftables chain {where} drops forwarded packets by policy; "
                f"let pods through with: nft insert rule {where} oifname {bridge} accept; "
                f"nft insert rule {where} iifname {bridge} accept"
            )
    for family, program in ((socket.AF_INET, "iptables-legacy"), (socket.AF_INET6, "ip6tables-legacy")):
        if iptables.forward_drops(family, bridge):
            found.append(
                f"the FORWARD chain of {program} drops forwarded packets by policy; let pods through with: "
                f"{program} -I FORWARD -i {bridge} -j ACCEPT; {program} -I FORWARD -o {bridge} -j ACCEPT"
            )
    return found


_FAMILIES = {nft.INET: "inet", nft.IPV4: "ip", nft.IPV6: "ip6"}
