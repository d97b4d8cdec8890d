"""Which classic BPF programs are seccomp filters, and the interpreter that other tests rely on."""

from __future__ import annotations

import struct

import pytest

from ropewalk.linux import bpf
from tests.fakes import bpf as kernel

X86_64, I386 = 0xC000003E, 0x40000003
# read(2) of x86-64 with a descriptor below 3 is allowed, what has bit 31 is logged, the rest is refused with 77.
PROGRAM = [
    (bpf.LD_ABS, 0, 0, 4),
    (bpf.JEQ, 0, 8, X86_64),
    (bpf.LD_ABS, 0, 0, 0),
    (bpf.JSET, 7, 0, 0x80000000),
    (bpf.JEQ, 0, 5, 0),
    (bpf.LD_ABS, 0, 0, 20),  # the upper half of the first argument
    (bpf.JGT, 3, 0, 0),
    (bpf.LD_ABS, 0, 0, 16),
    (bpf.JGE, 1, 0, 3),
    (bpf.RET_K, 0, 0, kernel.ALLOW),
    (bpf.RET_K, 0, 0, kernel.ERRNO | 77),
    (bpf.RET_K, 0, 0, kernel.LOG),
]
BY_MASK = [
    (bpf.LD_ABS, 0, 0, 24),
    (bpf.AND, 0, 0, 0xF0),
    (bpf.JEQ, 0, 1, 0x10),
    (bpf.JA, 0, 0, 1),
    (bpf.RET_K, 0, 0, kernel.TRAP),
    (bpf.RET_K, 0, 0, kernel.ALLOW),
]


def assembled(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("=HBBI", *one) for one in instructions)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (kernel.Call(0, X86_64, (2,)), kernel.ALLOW),
        (kernel.Call(0, X86_64, (3,)), kernel.ERRNO | 77),
        (kernel.Call(0, X86_64, (1 << 32,)), kernel.ERRNO | 77),
        (kernel.Call(1, X86_64, (2,)), kernel.ERRNO | 77),
        (kernel.Call(0x80000000, X86_64), kernel.LOG),
        (kernel.Call(0, I386), kernel.ERRNO | 77),
    ],
)
def test_a_program_is_followed(call: kernel.Call, answer: int) -> None:
    assert kernel.evaluate(bpf.parse(assembled(*PROGRAM)), call) == answer


def test_masks_and_far_jumps() -> None:
    program = bpf.parse(assembled(*BY_MASK))
    assert kernel.evaluate(program, kernel.Call(0, X86_64, (0, 0x31F))) == kernel.ALLOW
    assert kernel.evaluate(program, kernel.Call(0, X86_64, (0, 0x3F))) == kernel.TRAP


def test_what_the_interpreter_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="0x87"):
        kernel.evaluate(bpf.parse(assembled((bpf.TXA, 0, 0, 0))), kernel.Call(0, X86_64))


def test_whole_programs_are_filters() -> None:
    for program in (PROGRAM, BY_MASK):
        assert bpf.is_filter(assembled(*program))
    assert bpf.is_filter(assembled((bpf.RET_K, 0, 0, 0)))
    assert bpf.is_filter(assembled((bpf.LD_LEN, 0, 0, 0), (bpf.TAX, 0, 0, 0), (0x0C, 0, 0, 0), (bpf.RET_A, 0, 0, 0)))


def test_no_part_of_a_program_is_a_filter() -> None:
    for program in (PROGRAM, BY_MASK):
        whole = assembled(*program)
        assert not [size for size in range(len(whole)) if bpf.is_filter(whole[:size])]


@pytest.mark.parametrize(
    "instruction",
    [
        (bpf.LD_ABS, 0, 0, 2),  # not a word
        (bpf.LD_ABS, 0, 0, 64),  # beyond seccomp_data
        (0x28, 0, 0, 0),  # half a word
        (bpf.JEQ, 1, 0, 0),
        (bpf.JEQ, 0, 1, 0),
        (bpf.JA, 0, 0, 1),
        (bpf.JA, 0, 0, 0xFFFFFFFF),
        (bpf.LD_MEM, 0, 0, 16),
        (0x34, 0, 0, 0),  # division by zero
        (0x64, 0, 0, 32),  # shift of all bits
        (0x94, 0, 0, 3),  # modulo
        (0x8C, 0, 0, 0),
        (0xFF, 0, 0, 0),
    ],
)
def test_what_the_kernel_refuses_is_no_filter(instruction: tuple[int, int, int, int]) -> None:
    assert not bpf.is_filter(assembled(instruction, (bpf.RET_K, 0, 0, 0)))


def test_sizes() -> None:
    end = (bpf.RET_K, 0, 0, 0)
    assert bpf.is_filter(assembled(*[end] * bpf.MAX_INSTRUCTIONS))
    assert not bpf.is_filter(assembled(*[end] * (bpf.MAX_INSTRUCTIONS + 1)))
    assert not bpf.is_filter(b"")
    assert not bpf.is_filter(assembled(end) + b"\0")
    assert not bpf.is_filter(assembled(end, (bpf.LD_ABS, 0, 0, 0)))
