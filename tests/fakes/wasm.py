"""WebAssembly programs as bytes, for tests of runtimes that run such (webassembly.github.io/spec, WASI preview 1)."""

from __future__ import annotations

I32 = b"\x7f"
FUNCTION, MEMORY = b"\x00", b"\x02"  # kinds of imports and exports
CONST, CALL, DROP, END = b"\x41", b"\x10", b"\x1a", b"\x0b"
FOREVER = b"\x03\x40\x0c\x00" + END  # loop, br 0
TRAP = b"\x00"  # unreachable
WASI = "wasi_snapshot_preview1"


def number(value: int) -> bytes:
    """LEB128, signed or not: both are the same below 64, and in two bytes below 8192."""
    assert 0 <= value < 1 << 13
    return bytes([value]) if value < 64 else bytes([value & 0x7F | 0x80, value >> 7])


def vector(*items: bytes) -> bytes:
    return number(len(items)) + b"".join(items)


def name(text: str) -> bytes:
    return number(len(text)) + text.encode()


def section(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + number(len(content)) + content


def module(body: bytes, text: str = "") -> bytes:
    """A program that runs `body`; `text` lies in memory behind a vector that fd_write understands."""
    types = vector(b"\x60" + vector(I32, I32, I32, I32) + vector(I32), b"\x60" + vector() + vector())
    imports = vector(name(WASI) + name("fd_write") + FUNCTION + number(0))
    exports = vector(name("memory") + MEMORY + number(0), name("_start") + FUNCTION + number(1))
    content = (8).to_bytes(4, "little") + len(text).to_bytes(4, "little") + text.encode()
    code = vector() + body + END  # no variables of its own
    sections = {
        1: types,
        2: imports,
        3: vector(number(1)),
        5: vector(b"\x00\x01"),
        7: exports,
        10: vector(number(len(code)) + code),
        11: vector(number(0) + CONST + number(0) + END + number(len(content)) + content),
    }
    return b"\0asm\1\0\0\0" + b"".join(section(kind, content) for kind, content in sections.items())


def says(text: str, *, then: bytes = b"") -> bytes:
    """Writes `text` to standard output, then runs `then`."""
    write = b"".join(CONST + number(value) for value in (1, 0, 1, 48)) + CALL + number(0) + DROP
    return module(write + then, text)


def turns() -> bytes:
    """Never ends by itself."""
    return module(FOREVER)
