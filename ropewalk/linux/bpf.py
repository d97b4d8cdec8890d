"""Classic BPF programs as seccomp(2) takes them: arrays of struct sock_filter (linux/filter.h), 8 bytes each.

Here: which programs a kernel accepts as a filter. What one means for a call is evaluated by tests only.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, linux/bpf_common.h
SIZE = 8  # bytes of struct sock_filter
DATA = 64  # bytes of struct seccomp_data, linux/seccomp.h

LD_ABS, LD_LEN, LDX_LEN, LD_IMM, LDX_IMM, LD_MEM, LDX_MEM = 0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61
ST, STX, TAX, TXA, NEG, JA, RET_K, RET_A = 0x02, 0x03, 0x07, 0x87, 0x84, 0x05, 0x06, 0x16
JEQ, JGT, JGE, JSET = 0x15, 0x25, 0x35, 0x45  # | 0x08 compares with X
AND = 0x54
_ARITHMETIC = frozenset(range(0x04, 0xB4, 0x10)) - {NEG, 0x94}  # add sub mul div or and lsh rsh xor; seccomp has no mod
_JUMPS = frozenset((JEQ, JGT, JGE, JSET))
_WITH_X = 0x08
_DIV, _SHIFTS = 0x34, (0x64, 0x74)
_MEMORY = (LD_MEM, LDX_MEM, ST, STX)
_MEMORY_WORDS = 16  # BPF_MEMWORDS
_PLAIN = frozenset((LD_LEN, LDX_LEN, LD_IMM, LDX_IMM, TAX, TXA, NEG, RET_K, RET_A))


class Instruction(NamedTuple):
    code: int
    jt: int
    jf: int
    k: int


def parse(program: bytes) -> list[Instruction]:
    """The instructions in the bytes of an array, of this machine's byte order."""
    return [Instruction(*fields) for fields in struct.iter_unpack("=HBBI", program)]


def is_filter(program: bytes) -> bool:
    """Whether the kernel would take the program as a seccomp filter: whole instructions, each of them known, no jump
    beyond the end, a return at the end (kernel/seccomp.c seccomp_check_filter, net/core/filter.c bpf_check_classic).
    A part of a program, cut anywhere, is none as long as the cut-off rest can be reached."""
    if len(program) % SIZE or not 0 < len(program) <= MAX_INSTRUCTIONS * SIZE:
        return False
    instructions = parse(program)
    last = len(instructions) - 1
    if instructions[last].code not in (RET_K, RET_A):
        return False
    return all(_is_valid(one, room=last - index) for index, one in enumerate(instructions))


def _is_valid(one: Instruction, *, room: int) -> bool:
    """`room`: how many instructions follow."""
    code = one.code & ~_WITH_X
    if one.code == LD_ABS:
        return one.k < DATA and one.k % 4 == 0
    if one.code == JA:
        return one.k < room
    if code in _JUMPS:
        return one.jt < room and one.jf < room
    if one.code in _MEMORY:
        return one.k < _MEMORY_WORDS
    if one.code == _DIV:
        return one.k != 0
    if one.code in _SHIFTS:
        return one.k < 32
    return one.code in _PLAIN or code in _ARITHMETIC
