"""A program of raw system calls for x86-64: what a container may do, asked in each of its three call tables.

The ELF file is put together here, so that no compiler is needed. It makes the calls in order and writes each result
(negative errno or value) as a signed 64-bit number to its standard output.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

BASE = 0x400000  # below 4 GiB, so that 32-bit calls can point into it
_X32_BIT = 0x40000000
_RESULTS = BASE + 0x10000
_ARGUMENTS = BASE + 0x20000  # for socketcall: 6 words of 32 bits each
_SIZE = 0x30000

# What RuntimeDefault decides about, by table and subject -> number, arguments.
SAMPLE: dict[str, dict[str, tuple[int, tuple[int, ...]]]] = {
    "x86_64": {
        "getpid": (39, ()),
        "socket inet": (41, (2, 1, 0)),
        "socket alg": (41, (38, 5, 0)),
        "socket alg with a high bit": (41, (2**32 + 38, 5, 0)),
        "socket vsock": (41, (40, 1, 0)),
        "unshare user": (272, (0x10000000,)),
        "clone user": (56, (0x10000000 | 17, 0, 0)),
        "clone3": (435, (0, 0)),
        "io_uring_setup": (425, (1, 0)),
        "keyctl": (250, (0, 0)),
        "bpf": (321, (0, 0, 0)),
        "userfaultfd": (323, (0,)),
        "personality": (135, (0x0040000,)),
    },
    "i386": {
        "getpid": (20, ()),
        "socket inet": (359, (2, 1, 0)),
        "socket alg": (359, (38, 5, 0)),
        "unshare user": (310, (0x10000000,)),
        "keyctl": (288, (0, 0)),
    },
}


class Call(NamedTuple):
    """`table`: "x86_64", "i386" or "x32". `block`: words that the second argument points to (socketcall)."""

    table: str
    number: int
    arguments: tuple[int, ...] = ()
    block: tuple[int, ...] = ()


def program(calls: Sequence[Call]) -> bytes:
    """An executable. It exits with 0."""
    code = b""
    for index, call in enumerate(calls):
        code += _made(call, _ARGUMENTS + 32 * index)
        code += b"\x48\xa3" + struct.pack("<Q", _RESULTS + 8 * index)  # mov [result], rax
    code += _registers(1, (1, _RESULTS, 8 * len(calls))) + b"\x0f\x05"  # write
    code += _registers(60, (0,)) + b"\x0f\x05"  # exit
    entry = 64 + 56
    data = bytearray(_SIZE)
    data[entry : entry + len(code)] = code
    for index, call in enumerate(calls):
        start = _ARGUMENTS - BASE + 32 * index
        data[start : start + 4 * len(call.block)] = struct.pack(f"<{len(call.block)}I", *call.block)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = identity + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, _SIZE, _SIZE, 0x1000)
    data[: len(header + segment)] = header + segment
    return bytes(data)


def results(output: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack("<q", output)]


def _made(call: Call, block: int) -> bytes:
    arguments = (*call.arguments, block) if call.block else call.arguments
    if call.table == "i386":
        # eax, ebx, ecx, edx; int 0x80; cdqe, since the result has 32 bits
        opcodes = (b"\xb8", b"\xbb", b"\xb9", b"\xba")
        values = (call.number, *arguments)
        code = b"".join(opcode + struct.pack("<I", value) for opcode, value in zip(opcodes, values, strict=False))
        return code + b"\xcd\x80" + b"\x48\x98"
    number = call.number | (_X32_BIT if call.table == "x32" else 0)
    return _registers(number, arguments) + b"\x0f\x05"


def _registers(number: int, arguments: tuple[int, ...]) -> bytes:
    """rax, rdi, rsi, rdx"""
    opcodes = (b"\x48\xb8", b"\x48\xbf", b"\x48\xbe", b"\x48\xba")
    return b"".join(
        opcode + struct.pack("<Q", value) for opcode, value in zip(opcodes, (number, *arguments), strict=False)
    )
