"""What plugins answer, and what a pod's row keeps of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ropewalk.errors import RopewalkError
from ropewalk.network import result

INTERFACES = [
    {"name": "cni0", "mac": "a"},
    {"name": "veth1", "mac": "b"},
    {"name": "eth0", "mac": "c", "sandbox": "/n"},
    {"name": "net1", "mac": "d", "sandbox": "/n"},
]


def parsed(**document: Any) -> result.Result:
    return result.parse(json.dumps({"cniVersion": "1.0.0"} | document).encode())


def test_addresses_of_the_interface_ipv4_first() -> None:
    made = parsed(
        interfaces=INTERFACES,
        ips=[
            {"address": "fd00::5/64", "interface": 2},
            {"address": "10.0.0.9/24", "interface": 0},
            {"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 2, "version": "4"},
            {"address": "10.9.0.5/24", "interface": 3},
        ],
    )
    assert [ip.address for ip in made.of("eth0")] == ["10.1.0.5/24", "fd00::5/64"]
    assert made.mac("eth0") == "c"
    assert made.on_node("veth1")
    assert not made.on_node("eth0")


def test_an_address_that_says_not_whose_it_is_is_the_pods() -> None:
    assert [ip.address for ip in parsed(ips=[{"address": "10.1.0.5/24"}]).of("eth0")] == ["10.1.0.5/24"]


def test_an_interface_by_another_name_will_do() -> None:
    made = parsed(interfaces=INTERFACES, ips=[{"address": "10.9.0.5/24", "interface": 3}])
    assert [ip.address for ip in made.of("eth0")] == ["10.9.0.5/24"]


@pytest.mark.parametrize("ips", [None, [], [{"address": "10.0.0.1/24", "interface": 0}]])
def test_a_pod_without_an_address_is_refused(ips: Any) -> None:
    with pytest.raises(RopewalkError, match="no address for eth0"):
        parsed(interfaces=INTERFACES, ips=ips).of("eth0")


def test_an_answer_without_a_version_has_the_one_that_was_asked() -> None:
    assert json.loads(result.check(b'{"ips": []}', version="0.4.0")) == {"ips": [], "cniVersion": "0.4.0"}
    whole = b'{"cniVersion": "1.0.0", "dns": {}}'
    assert result.check(whole, version="0.4.0") == whole


DEEP = b'{"a": %s%s, "cniVersion": "1.0.0"}' % (b"[" * 100_000, b"]" * 100_000)


@pytest.mark.parametrize(
    "said", [b"", b"hello", b"[]", b"\xff", DEEP, b'{"ips": [{"address": "nonsense"}]}', b'{"ips": 1}']
)
def test_what_is_no_result_is_refused(said: bytes) -> None:
    with pytest.raises(RopewalkError, match="no CNI result"):
        result.check(said, version="1.0.0")
