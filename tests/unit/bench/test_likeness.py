"""Two products are compared only where they do like work."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench import likeness
from bench.likeness import Facts

CAPABILITIES = {"bounding": ["CAP_CHOWN", "CAP_KILL"], "ambient": []}
KERNEL = {"Seccomp": "2", "NoNewPrivs": "0", "CapEff": "00000000a80425fb"}
OWN = ["ipc", "mnt", "net", "pid", "uts"]


def spec(*, calls: int = 300, action: str = "SCMP_ACT_ERRNO") -> dict[str, Any]:
    rules = [
        {"names": [f"call{number}" for number in range(calls)], "action": "SCMP_ACT_ALLOW"},
        {"names": ["call0", "call1"], "action": "SCMP_ACT_ALLOW", "args": [{}]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO"},
    ]
    return {
        "process": {"capabilities": CAPABILITIES, "noNewPrivileges": False},
        "mounts": [{"destination": "/proc"}, {"destination": "/dev"}],
        "linux": {
            "seccomp": {"defaultAction": action, "syscalls": rules},
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "maskedPaths": ["/proc/kcore"],
        },
    }


@pytest.fixture
def facts() -> Facts:
    return likeness.build(spec(), KERNEL, OWN)


def test_facts_of_a_spec(facts: Facts) -> None:
    assert facts.seccomp_calls == 300
    assert facts.capabilities == {"bounding": ["CAP_CHOWN", "CAP_KILL"]}
    assert facts.namespaces == ["mount", "pid"]
    assert (facts.masked, facts.read_only, facts.mounts) == (["/proc/kcore"], [], ["/dev", "/proc"])


def test_the_same_is_alike(facts: Facts) -> None:
    assert likeness.compare(facts, facts) == ([], [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seccomp_action": "none"}, "seccomp_action"),
        ({"seccomp_calls": 30}, "seccomp allows"),
        ({"capabilities": {"bounding": ["CAP_CHOWN"]}}, "capabilities"),
        ({"no_new_privileges": True}, "no_new_privileges"),
        ({"masked": []}, "masked"),
        ({"own": ["mnt", "pid"]}, "own"),
        ({"kernel": {**KERNEL, "Seccomp": "0"}}, "kernel Seccomp"),
        ({"kernel": {**KERNEL, "CapEff": "0"}}, "kernel CapEff"),
    ],
)
def test_a_difference_in_kind_is_named(facts: Facts, change: dict[str, Any], named: str) -> None:
    other = msgspec.structs.replace(facts, **change)
    (difference,), _ = likeness.compare(facts, other)
    assert difference.startswith(named)
    assert likeness.compare(other, facts)[0] != []


def test_what_may_differ_is_only_noted(facts: Facts) -> None:
    other = msgspec.structs.replace(facts, seccomp_calls=310, mounts=["/dev", "/proc", "/sys"], namespaces=["pid"])
    differences, notes = likeness.compare(facts, other)
    assert differences == []
    assert notes == [
        "seccomp allows 300 and 310 system calls",
        "namespaces in the spec: mount, pid and pid",
        "mounted on one side only: /sys",
    ]
