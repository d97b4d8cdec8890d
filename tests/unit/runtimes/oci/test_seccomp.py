"""Seccomp: which profile is meant, what the default one lets through, and profile files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ropewalk import errors
from ropewalk.runtimes.oci import capabilities, facts, seccomp, seccomp_default
from ropewalk.spec import container, pod

DEFAULT, UNCONFINED, LOCALHOST = pod.ProfileType
Profile = pod.SecurityProfile
Security = container.LinuxContainerSecurityContext
NODE = facts.NodeFacts()
OPEN = """
    read openat execve mmap clock_gettime rt_sigreturn futex statx rseq close_range openat2 faccessat2 epoll_pwait2
    landlock_create_ruleset memfd_secret process_mrelease futex_waitv cachestat fchmodat2 map_shadow_stack futex_wake
    futex_wait futex_requeue statmount listmount mseal setxattrat ptrace arch_prctl chroot
"""
CLOSED = """
    io_uring_setup io_uring_enter keyctl add_key request_key bpf userfaultfd unshare setns mount umount2 pivot_root
    kexec_load init_module reboot swapon open_by_handle_at perf_event_open quotactl move_mount fsopen clone3 move_pages
    nfsservctl vm86 uselib sysfs _sysctl syslog settimeofday clock_settime lookup_dcookie set_mempolicy
"""


def default(*added: str, machine: str = "x86_64") -> dict[str, Any]:
    return seccomp.default_profile(capabilities.DEFAULT | frozenset(f"CAP_{name}" for name in added), machine)


def allows(profile: dict[str, Any], name: str, first: int | None = None) -> bool:
    """Whether a call passes, by the rules as libseccomp takes them: the first that names it and fits."""
    for rule in profile["syscalls"]:
        if name not in rule["names"]:
            continue
        args = rule.get("args", [])
        if not args:
            return bool(rule["action"] == "SCMP_ACT_ALLOW")
        (arg,) = args
        value = first or 0
        fits = {
            "SCMP_CMP_EQ": value == arg["value"],
            "SCMP_CMP_LT": value < arg["value"],
            "SCMP_CMP_MASKED_EQ": value & arg["value"] == arg["valueTwo"],
        }[arg["op"]]
        if fits:
            return bool(rule["action"] == "SCMP_ACT_ALLOW")
    return False


def test_ordinary_programs_run() -> None:
    profile = default()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["defaultErrnoRet"] == 1
    for name in OPEN.split():
        assert allows(profile, name), name


@pytest.mark.parametrize(
    "name",
    CLOSED.split(),
)
def test_surfaces_are_closed(name: str) -> None:
    assert not allows(default(), name)


def test_capabilities_open_what_they_govern() -> None:
    for capability, names in seccomp_default.BY_CAPABILITY.items():
        profile = default(capability.removeprefix("CAP_"))
        assert all(allows(profile, name) for name in names.split()), capability
    assert not allows(default(), "bpf")
    assert allows(default("BPF"), "bpf")
    assert not allows(default("BPF"), "mount")


def test_clone_makes_no_namespaces_without_sys_admin() -> None:
    assert allows(default(), "clone", 0x3D0F00)  # pthread_create
    assert allows(default(), "clone", 17)
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert not allows(default(), "clone", flag | 17)
        assert allows(default("SYS_ADMIN"), "clone", flag | 17)
    clone3 = [rule for rule in default()["syscalls"] if rule["names"] == ["clone3"]]
    assert clone3[0]["errnoRet"] == 38  # so that libraries fall back to clone
    assert default(machine="s390x")["syscalls"][-2]["args"][0]["index"] == 1


@pytest.mark.parametrize("family", [38, 40, 12, 19, 20, 23, 25, 34, 37, 46, 99, 2**32 + 38, 2**32 + 2, 2**63])
def test_socket_families_that_are_closed(family: int) -> None:
    assert not allows(default(), "socket", family)


@pytest.mark.parametrize("family", [0, 1, 2, 10, 11, 15, 16, 17, 29, 31, 39, 44])
def test_socket_families_that_are_open(family: int) -> None:
    assert allows(default(), "socket", family)


def test_the_32_bit_multiplexer_is_open_where_it_exists() -> None:
    assert allows(default(), "socketcall")
    assert not allows(default(machine="aarch64"), "socketcall")


def test_personality() -> None:
    assert allows(default(), "personality", 0xFFFFFFFF)
    assert not allows(default(), "personality", 0x0040000)  # ADDR_NO_RANDOMIZE


def test_no_name_is_listed_twice() -> None:
    names = [name for group in seccomp_default.ALWAYS.values() for name in group.split()]
    assert len(names) == len(set(names))


def test_architectures() -> None:
    assert default()["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    arm = default(machine="aarch64")
    assert allows(arm, "cacheflush")
    assert not allows(arm, "arch_prctl")
    assert "socketcall" not in arm["syscalls"][0]["names"]
    with pytest.raises(errors.Unsupported, match="mips"):
        default(machine="mips")


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (Security(), None),
        (Security(seccomp=Profile()), Profile(DEFAULT)),
        (Security(seccomp=Profile(UNCONFINED)), None),
        (Security(seccomp=Profile(LOCALHOST, "/p.json")), Profile(LOCALHOST, "/p.json")),
        (Security(seccomp=Profile(LOCALHOST, "localhost//p.json")), Profile(LOCALHOST, "/p.json")),
        (Security(seccomp_profile_path="runtime/default"), Profile(DEFAULT)),
        (Security(seccomp_profile_path="docker/default"), Profile(DEFAULT)),
        (Security(seccomp_profile_path="unconfined"), None),
        (Security(seccomp_profile_path="localhost//p.json"), Profile(LOCALHOST, "/p.json")),
        (Security(seccomp=Profile(UNCONFINED), seccomp_profile_path="runtime/default"), None),
        (Security(seccomp=Profile(), privileged=True), None),
        (Security(seccomp=Profile(LOCALHOST, "/p.json"), privileged=True), None),
    ],
)
def test_which_profile_is_meant(security: Security, expected: Profile | None) -> None:
    assert seccomp.choose(security) == expected
    assert seccomp.profile_file(security) == (expected.localhost_ref if expected else "")


@pytest.mark.parametrize(
    "security",
    [
        Security(seccomp=Profile(DEFAULT, "/p.json")),
        Security(seccomp=Profile(UNCONFINED, "/p.json")),
        Security(seccomp=Profile(LOCALHOST)),
        Security(seccomp=Profile(LOCALHOST, "p.json")),
        Security(seccomp=Profile(LOCALHOST, "/a/../p.json")),
        Security(seccomp_profile_path="localhost/p.json"),
        Security(seccomp_profile_path="nope"),
    ],
)
def test_bad_references_are_refused(security: Security) -> None:
    with pytest.raises(errors.Invalid):
        seccomp.choose(security)


def parse(document: dict[str, Any], *held: str, node: facts.NodeFacts = NODE) -> dict[str, Any]:
    data = json.dumps(document).encode()
    return seccomp.parse(data, "/p.json", capabilities=frozenset(f"CAP_{name}" for name in held), facts=node)


def test_a_profile_in_the_oci_form() -> None:
    rule = {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}
    found = parse({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule], "listenerMetadata": "x", "evil": [1]})
    assert found == {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def test_a_profile_in_dockers_form() -> None:
    document = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        ],
        "syscalls": [
            {"name": "read", "action": "SCMP_ACT_ALLOW", "args": None},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_BPF"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        ],
    }
    found = parse(document, "BPF")
    assert [rule["names"] for rule in found["syscalls"]] == [["read"], ["bpf"], ["ptrace"]]
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert found["defaultErrnoRet"] == 38
    other = parse(document, node=facts.NodeFacts(architecture="aarch64"))
    assert [rule["names"] for rule in other["syscalls"]] == [["read"], ["mount"], ["clone"], ["ptrace"]]
    assert other["architectures"] == ["SCMP_ARCH_AARCH64"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"defaultAction": "SCMP_ACT_NOPE"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": "x", "action": "SCMP_ACT_ALLOW"}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ALLOW", '
        b'"includes": {"minKernel": "x"}}]}',
        b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096, "syscalls": []}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], '
        b'"action": "SCMP_ACT_ERRNO", "errnoRet": -1}]}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ERRNO", '
        b'"args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}',
        b"\xff",
        b'{"defaultAction": "\xff"}',
        b'{"defaultAction": "SCMP_ACT_ALLOW", "other": %s%s}' % (b"[" * 100_000, b"]" * 100_000),
        b" " * (seccomp.MAX_PROFILE + 1),
    ],
)
def test_damaged_profiles_are_refused(data: bytes) -> None:
    with pytest.raises(errors.Invalid, match="profile"):
        seccomp.parse(data, "/p.json", capabilities=frozenset(), facts=NODE)


def test_a_notification_socket_is_not_supported() -> None:
    with pytest.raises(errors.Unsupported, match="listenerPath"):
        parse({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"})


def test_an_unread_profile_is_an_error_not_unconfined() -> None:
    security = Security(seccomp=Profile(LOCALHOST, "/p.json"))
    with pytest.raises(errors.Invalid, match="cannot be read"):
        seccomp.build(security, None, capabilities=frozenset(), facts=NODE)
