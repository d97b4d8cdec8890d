"""The seccomp filter that a process really has, asked of the kernel (ptrace(2), PTRACE_SECCOMP_GET_FILTER)."""

from __future__ import annotations

import ctypes
import os

from ropewalk.linux import bpf

SEIZE, INTERRUPT, DETACH, GET_FILTER = 0x4206, 0x4207, 17, 0x420C  # linux/ptrace.h
WALL = 0x40000000  # linux/wait.h


def read(pid: int) -> bytes:
    """The latest filter of a process. OSError where the kernel keeps none (it needs CONFIG_CHECKPOINT_RESTORE)."""
    _ptrace(SEIZE, pid)
    try:
        _ptrace(INTERRUPT, pid)
        os.waitpid(pid, WALL)
        program = ctypes.create_string_buffer(bpf.MAX_INSTRUCTIONS * bpf.SIZE)
        count = _ptrace(GET_FILTER, pid, 0, ctypes.cast(program, ctypes.c_void_p).value)
        return program.raw[: count * bpf.SIZE]
    finally:
        _ptrace(DETACH, pid)


def _ptrace(request: int, pid: int, address: int = 0, data: int | None = 0) -> int:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.restype = ctypes.c_long
    result: int = call(ctypes.c_long(request), ctypes.c_long(pid), ctypes.c_void_p(address), ctypes.c_void_p(data))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"ptrace {request:#x}")
    return result
