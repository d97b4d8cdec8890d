"""The policy of a legacy table, as ip_tables.h lays it out."""

from __future__ import annotations

import socket
import struct

import pytest

from ropewalk.linux import iptables


def entry(address_size: int, verdict: int) -> bytes:
    """struct ipt_entry with a standard target and no match."""
    offset = address_size + 28
    head = bytes(address_size) + struct.pack("=IHHIQQ", 0, offset, offset + 40, 0, 0, 0)
    head = head[:offset].ljust(offset, b"\0")
    return head + struct.pack("=H30xi4x", 40, verdict)


@pytest.mark.parametrize(("family", "size"), [(socket.AF_INET, 84), (socket.AF_INET6, 136)])
@pytest.mark.parametrize("verdict", [-1, -2])
def test_the_policy_is_the_verdict_at_the_underflow(family: socket.AddressFamily, size: int, verdict: int) -> None:
    first = entry(size, -2)
    assert iptables.policy(first + entry(size, verdict), len(first), family) == verdict


def test_a_table_that_is_not_loaded_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "_tables", lambda family: ["nat"])
    assert not iptables.forward_drops(socket.AF_INET, "ropewalk0")
