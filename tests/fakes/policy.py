"""What a seccomp profile means, call by call: an independent reading of linux.seccomp (runtime-spec config-linux.md).

Only the numbers of the calls come from libseccomp's tables. Where a profile names one call with and without
conditions, the unconditional rule counts; a rule whose action is the default one says nothing.

32-bit x86 reaches sockets and System V IPC by calls of their own and by multiplexers (socketcall, ipc), whose first
argument says which: libseccomp applies a rule to both. The first argument of the call itself lies behind a pointer,
so a condition on it is lost there.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.fakes import bpf

X32_BIT = 0x40000000
MASK64 = (1 << 64) - 1
X86_64, I386, AARCH64, ARM, RISCV64 = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0xC00000F3  # linux/audit.h
# OCI name -> (AUDIT_ARCH, libseccomp's token, bits that it compares)
TABLES = {
    "SCMP_ARCH_X86_64": (X86_64, X86_64, 64),
    "SCMP_ARCH_X86": (I386, I386, 32),
    "SCMP_ARCH_X32": (X86_64, 0x4000003E, 32),
    "SCMP_ARCH_AARCH64": (AARCH64, AARCH64, 64),
    "SCMP_ARCH_ARM": (ARM, ARM, 32),
}
ARCHES = (X86_64, I386, AARCH64, ARM, RISCV64, 0, 0xFFFFFFFF)
_ACTIONS = {
    "SCMP_ACT_KILL": bpf.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": bpf.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": bpf.KILL_PROCESS,
    "SCMP_ACT_TRAP": bpf.TRAP,
    "SCMP_ACT_LOG": bpf.LOG,
    "SCMP_ACT_ALLOW": bpf.ALLOW,
    "SCMP_ACT_ERRNO": bpf.ERRNO,
    "SCMP_ACT_TRACE": bpf.TRACE,
}


def _from(first: int, names: str) -> dict[str, int]:
    return {name: at for at, name in enumerate(names.split(), first)}


# First argument of socketcall (linux/net.h) and of ipc (linux/ipc.h) -> (number of the multiplexer, argument)
_SOCKETS = _from(
    1,
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown "
    "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg",
)
_IPC = _from(1, "semop semget semctl semtimedop") | _from(11, "msgsnd msgrcv msgget msgctl")
_IPC |= _from(21, "shmat shmdt shmget shmctl")
_MULTIPLEXED = {name: (102, at) for name, at in _SOCKETS.items()} | {name: (117, at) for name, at in _IPC.items()}
# Calls of their own for them, since Linux 4.3 and 5.1 (asm/unistd_32.h); libseccomp tells only of the multiplexers.
_DIRECT = (
    _from(337, "recvmmsg")
    | _from(345, "sendmmsg")
    | _from(359, "socket socketpair bind connect listen accept4 getsockopt setsockopt getsockname getpeername sendto")
    | _from(370, "sendmsg recvfrom recvmsg shutdown")
    | _from(393, "semget semctl shmget shmctl shmat shmdt msgget msgsnd msgrcv msgctl")
)


def number(table: str, name: str) -> int:
    """Of a call in a table; negative if the table has none."""
    if table == "SCMP_ARCH_X86" and name in _DIRECT:
        return _DIRECT[name]
    resolve = _library().seccomp_syscall_resolve_name_arch
    found: int = resolve(ctypes.c_uint32(TABLES[table][1]), name.encode())
    return found


class Policy:
    """`native`: the table that a profile always has."""

    def __init__(self, profile: Mapping[str, Any], native: str = "SCMP_ARCH_X86_64") -> None:
        self.default = _answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
        self.tables = dict.fromkeys([native, *profile.get("architectures", [])])
        self._rules = {table: _compile(profile, table, self.default) for table in self.tables}

    def verdict(self, call: bpf.Call) -> int:
        """The action word that a filter shall return."""
        table = self._table(call)
        if table is None:
            return bpf.KILL_THREAD
        bits = (1 << TABLES[table][2]) - 1
        always, conditional = self._rules[table].get(call.number, ([], []))
        for action in always:
            return action
        arguments = (*call.arguments, *(0,) * 6)
        for action, groups in conditional:
            if any(all(_holds(one, arguments, bits) for one in group) for group in groups):
                return action
        return self.default

    def _table(self, call: bpf.Call) -> str | None:
        """By the architecture, and on x86-64 by the bit that marks x32. -1 is no call: a tracer skips one with it."""
        x32 = call.arch == X86_64 and X32_BIT <= call.number < 0xFFFFFFFF
        if x32:
            return "SCMP_ARCH_X32" if "SCMP_ARCH_X32" in self.tables else None
        fits = [table for table in self.tables if TABLES[table][0] == call.arch and table != "SCMP_ARCH_X32"]
        return fits[0] if fits else None

    def calls(self) -> Iterator[bpf.Call]:
        """Every number of every table and beyond, on every architecture; arguments around each compared value where
        the profile looks at them."""
        for arch in ARCHES:
            for bit in (0, X32_BIT):
                for each in (*range(620), 1023, 2**15, 2**16 + 41, X32_BIT - 1):
                    yield from self._sampled(arch, each | bit)
            for each in (0x80000000, 0x80000029, 0xBFFFFFFF, 0xC0000001, 0xFFFFFFFE, 0xFFFFFFFF):
                yield from self._sampled(arch, each)

    def _sampled(self, arch: int, each: int) -> Iterator[bpf.Call]:
        table = self._table(bpf.Call(each, arch))
        _, conditional = self._rules[table].get(each, ([], [])) if table else ([], [])
        compared: dict[int, set[int]] = {}
        for _, groups in conditional:
            for one in itertools.chain.from_iterable(groups):
                compared.setdefault(one["index"], {0, MASK64}).update(_around(one))
        yield bpf.Call(each, arch)
        yield bpf.Call(each, arch, (MASK64,) * 6)
        if compared:
            for values in itertools.product(*(sorted(compared.get(index, {7})) for index in range(6))):
                yield bpf.Call(each, arch, values)


_Conditions = list[list[Mapping[str, Any]]]  # any of these groups, of which all conditions hold


def _compile(
    profile: Mapping[str, Any], table: str, default: int
) -> dict[int, tuple[list[int], list[tuple[int, _Conditions]]]]:
    rules: dict[int, tuple[list[int], list[tuple[int, _Conditions]]]] = {}
    for rule in profile["syscalls"]:
        action = _answer(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        for name in rule["names"]:
            for each, groups in _places(table, name, rule.get("args", [])):
                always, conditional = rules.setdefault(each, ([], []))
                if groups:
                    conditional.append((action, groups))
                else:
                    always.append(action)
    return rules


def _places(table: str, name: str, conditions: list[Mapping[str, Any]]) -> Iterator[tuple[int, _Conditions]]:
    """The numbers that a rule for this name is about, each with its conditions."""
    indices = [one["index"] for one in conditions]
    groups = [[one] for one in conditions] if len(set(indices)) < len(indices) else [list(conditions)]
    direct = number(table, name)
    if direct >= 0:
        yield direct, groups if conditions else []
    if table == "SCMP_ARCH_X86" and name in _MULTIPLEXED:
        multiplexer, which = _MULTIPLEXED[name]
        chosen = {"index": 0, "op": "SCMP_CMP_EQ", "value": which, "valueTwo": 0}
        yield multiplexer, [[chosen, *(one for one in group if one["index"])] for group in groups]


def _answer(action: str, errno: int | None) -> int:
    data = (1 if errno is None else errno) if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else 0
    return _ACTIONS[action] | data


def _holds(one: Mapping[str, Any], arguments: tuple[int, ...], bits: int) -> bool:
    given, value, second = arguments[one["index"]] & bits, one["value"] & bits, one["valueTwo"] & bits
    tests: dict[str, bool] = {
        "SCMP_CMP_NE": given != value,
        "SCMP_CMP_LT": given < value,
        "SCMP_CMP_LE": given <= value,
        "SCMP_CMP_EQ": given == value,
        "SCMP_CMP_GE": given >= value,
        "SCMP_CMP_GT": given > value,
        "SCMP_CMP_MASKED_EQ": given & value == second & value,
    }
    return tests[one["op"]]


def _around(one: Mapping[str, Any]) -> Iterable[int]:
    for value in (one["value"], one["valueTwo"], one["value"] ^ MASK64 | one["valueTwo"]):
        for near in (value - 1, value, value + 1, value ^ 1 << 32, value ^ 1 << 31, value ^ 1 << 63, value >> 32):
            yield near & MASK64


def _library() -> ctypes.CDLL:
    return ctypes.CDLL("libseccomp.so.2")
