"""Legacy iptables, read only: what its FORWARD chain does with a packet that no rule decided.

Its tables are not seen through nftables. The two getsockopt calls are those of iptables itself:
include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from ropewalk.linux import libc

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_*, IP6T_SO_GET_*
_INFO = struct.Struct("=32s13I")  # struct ipt_getinfo: name, valid hooks, 5 entries, 5 underflows, count, size
_ENTRIES = struct.Struct("=32sI")  # struct ipt_get_entries: name, size; then the entries, aligned to 8
_FORWARD = 2  # NF_INET_FORWARD
_DROP = -1  # verdicts are stored as -NF_DROP - 1
_ENTRY = {socket.AF_INET: 84, socket.AF_INET6: 136}  # sizeof(struct ipt_ip), of struct ip6t_ip6
_TARGET = 32  # sizeof(struct xt_entry_target); the verdict of a standard target follows it
_LEVEL = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
_NAMES = {socket.AF_INET: "ip_tables_names", socket.AF_INET6: "ip6_tables_names"}


def forward_drops(family: socket.AddressFamily, interface: str) -> bool:
    """Whether legacy iptables drops what it forwards by policy, and no rule of its filter table names `interface`.
    A table that is not loaded is not loaded by asking."""
    if "filter" not in _tables(family):
        return False
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        info = _ask(sock, _GET_INFO, _INFO.pack(b"filter", *[0] * 13))
        numbers = _INFO.unpack(info)
        size, underflow = numbers[13], numbers[7 + _FORWARD]
        head = _ENTRIES.pack(b"filter", size) + b"\0" * 4
        entries = _ask(sock, _GET_ENTRIES, head + bytes(size))[len(head) :]
    return policy(entries, underflow, family) == _DROP and interface.encode() not in entries


def policy(entries: bytes, underflow: int, family: socket.AddressFamily) -> int:
    """The verdict of the entry at `underflow`, the last rule of a base chain (struct ipt_entry)."""
    (target,) = struct.unpack_from("=H", entries, underflow + _ENTRY[family] + 4)
    (verdict,) = struct.unpack_from("=i", entries, underflow + target + _TARGET)
    return int(verdict)


def _tables(family: socket.AddressFamily) -> list[str]:
    try:
        with open(f"/proc/thread-self/net/{_NAMES[family]}") as names:
            return names.read().split()
    except FileNotFoundError:
        return []


def _ask(sock: socket.socket, option: int, request: bytes) -> bytes:
    """getsockopt(2) with a request in the buffer, which Python's own getsockopt cannot pass."""
    buffer = ctypes.create_string_buffer(request, len(request))
    size = ctypes.c_uint32(len(request))
    libc.check(libc.libc.getsockopt(sock.fileno(), _LEVEL[sock.family], option, buffer, ctypes.byref(size)), "iptables")
    return buffer.raw[: size.value]
