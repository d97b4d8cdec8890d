"""A kernel's interpreter of classic BPF, for seccomp filters: what a program answers for one system call."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.linux import bpf

KILL_THREAD, KILL_PROCESS, TRAP = 0x00000000, 0x80000000, 0x00030000  # linux/seccomp.h
ERRNO, TRACE, LOG, ALLOW = 0x00050000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000


class Call(NamedTuple):
    """struct seccomp_data."""

    number: int  # 32 bits
    arch: int  # AUDIT_ARCH_*
    arguments: tuple[int, ...] = ()  # 64 bits each; those left out are 0
    pointer: int = 0

    def words(self) -> tuple[int, ...]:
        arguments = (*self.arguments, *(0,) * (6 - len(self.arguments)))
        packed = struct.pack("=IIQ6Q", self.number, self.arch, self.pointer, *arguments)
        return struct.unpack("=16I", packed)


def evaluate(program: Sequence[bpf.Instruction], call: Call) -> int:
    """The answer of a program of what libseccomp writes: loads, comparisons, masks, jumps and constant returns."""
    words = call.words()
    accumulator = at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == bpf.LD_ABS:
            accumulator = words[k // 4]
        elif code == bpf.JEQ:
            at += jt if accumulator == k else jf
        elif code == bpf.JGT:
            at += jt if accumulator > k else jf
        elif code == bpf.JGE:
            at += jt if accumulator >= k else jf
        elif code == bpf.JSET:
            at += jt if accumulator & k else jf
        elif code == bpf.JA:
            at += k
        elif code == bpf.AND:
            accumulator &= k
        elif code == bpf.RET_K:
            return k
        else:
            raise ValueError(f"instruction {at - 1} has the code {code:#x}")
