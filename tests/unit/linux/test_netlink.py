"""The netlink codec; pyroute2 is the oracle for what others read in our bytes."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from ropewalk.linux import netlink, rtnetlink


def test_attributes_are_padded_and_read_back() -> None:
    data = netlink.text(1, "eth0") + netlink.u8(2, 7) + netlink.u32(3, 1450) + netlink.attribute(4, b"")
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == {1: b"eth0\0", 2: b"\7", 3: struct.pack("=I", 1450), 4: b""}


def test_nesting_is_marked_and_the_mark_is_not_part_of_the_type() -> None:
    data = netlink.nested(18, netlink.text(1, "veth"))
    assert struct.unpack_from("=HH", data)[1] == 18 | 0x8000
    assert netlink.attributes(netlink.attributes(data)[18]) == {1: b"veth\0"}


def test_a_cut_attribute_is_ignored() -> None:
    data = netlink.u32(3, 5) + netlink.text(1, "eth0")
    for cut in range(len(data)):
        assert set(netlink.attributes(data[:cut])) <= {1, 3}
    assert netlink.attributes(struct.pack("=HH", 0, 1) * 4) == {}  # a length of 0 would never end


def test_messages_in_one_datagram() -> None:
    data = b"".join(netlink.message(kind, bytes(size)) for kind, size in ((20, 5), (21, 0), (22, 8)))
    padded = netlink.message(20, bytes(5)) + b"\0\0\0" + netlink.message(21, b"") + netlink.message(22, bytes(8))
    assert len(data) == len(padded) - 3
    assert [(kind, len(body)) for kind, _, _, body in netlink.split(padded)] == [(20, 5), (21, 0), (22, 8)]


def test_a_message_longer_than_its_datagram_is_an_error() -> None:
    with pytest.raises(netlink.NetlinkError) as caught:
        list(netlink.split(netlink.message(20, bytes(8))[:-1]))
    assert caught.value.errno == errno.EPROTO


def answer(code: int, *, words: str = "", capped: bool = True) -> tuple[int, bytes]:
    """Flags and body of an NLMSG_ERROR as the kernel builds it."""
    request = netlink.message(16, bytes(20))
    body = struct.pack("=i", -code) + (request[:16] if capped else request)
    if words:
        body += netlink.text(1, words)
    return (0x100 if capped else 0) | (0x200 if words else 0), body


def test_success_is_no_failure() -> None:
    assert netlink.failure(*answer(0)) is None


@pytest.mark.parametrize("capped", [True, False])
def test_a_failure_carries_the_kernels_words(capped: bool) -> None:
    failed = netlink.failure(*answer(errno.EEXIST, words="Device already there", capped=capped))
    assert failed is not None
    assert failed.errno == errno.EEXIST
    assert str(failed) == f"[Errno 17] {os.strerror(errno.EEXIST)} (Device already there)"


def test_a_failure_without_words() -> None:
    failed = netlink.failure(*answer(errno.ENODEV))
    assert failed is not None
    assert (failed.errno, failed.strerror) == (errno.ENODEV, os.strerror(errno.ENODEV))


def test_pyroute2_reads_our_veth() -> None:
    data = rtnetlink.new_veth("rw00000a", master=7, peer="eth0", peer_netns=9, peer_mac=b"\2R\n\0\0\5", mtu=1450)
    read = ifinfmsg(data)
    read.decode()
    assert read["header"]["flags"] == netlink.REQUEST | netlink.CREATE | netlink.EXCL
    assert (read.get_attr("IFLA_IFNAME"), read.get_attr("IFLA_MASTER"), read.get_attr("IFLA_MTU")) == (
        "rw00000a",
        7,
        1450,
    )
    info = read.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 9
    assert peer.get_attr("IFLA_ADDRESS") == "02:52:0a:00:00:05"


@pytest.mark.parametrize("number", [300, 5000])
def test_any_number_of_requests(number: int) -> None:
    """More than a socket's buffers hold answers to (ENOBUFS), more than they hold at all (EMSGSIZE)."""
    with netlink.Socket() as sock:
        outcome = sock.change([rtnetlink.delete_link(f"none{n}") for n in range(number)])
    assert len(outcome) == number
    assert {error and error.errno for error in outcome} <= {errno.ENODEV, errno.EPERM}
