"""A tar reader for layers: ustar, pax and GNU long names, one pass, every length bounded before it is believed.

Where dialects contradict each other it decides as Go's archive/tar does, because image builders are written in Go
and an archive must not mean one thing to a scanner and another here. Sparse files are refused: no builder writes
them into layers, and their maps were a denial of service (CVE-2025-58183).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ropewalk.errors import Kind, RopewalkError, Unsupported

BLOCK = 512
MAX_SPECIAL = 1 << 20  # bytes of one pax header or long name (archive/tar: maxSpecialFileSize)
MAX_SPECIALS = 16  # of them before one entry
MAX_PATH = 4095  # PATH_MAX, without its NUL
MAX_SIZE = 1 << 50

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_TYPES = frozenset((REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_ZEROS = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."


class BadArchive(RopewalkError):
    kind = Kind.CORRUPT


class Entry(NamedTuple):
    """One member. Names are bytes as the archive has them; nothing is cleaned or resolved."""

    name: bytes
    type: bytes
    mode: int  # permission bits, setuid, setgid and sticky
    uid: int
    gid: int
    size: int  # bytes of content; 0 for all but regular files
    mtime: int  # nanoseconds since the epoch
    link: bytes
    major: int
    minor: int
    xattrs: dict[str, bytes]


class Pieces:
    """An iterator's bytes, taken in exact amounts."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises BadArchive at the end."""
        end = self._at + size
        if end <= len(self._chunk):
            taken = self._chunk[self._at : end]
            self._at = end
            return taken
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes | memoryview]:
        """`size` bytes as they come."""
        while size:
            if self._at == len(self._chunk) and not self._next():
                raise BadArchive("the archive ends in the middle of an entry")
            piece = memoryview(self._chunk)[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass

    def at_end(self) -> bool:
        return self._at == len(self._chunk) and not self._next()

    def drain(self) -> None:
        """Read the rest, whatever it is: it belongs to the digest."""
        for _ in self._chunks:
            pass

    def _next(self) -> bool:
        self._at = 0
        for chunk in self._chunks:
            if chunk:
                self._chunk = chunk
                return True
        self._chunk = b""
        return False


class Special:
    """What pax and GNU headers said about the entry that follows."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.xattrs: dict[str, bytes] = {}
        self.name: bytes | None = None  # GNU L; wins over pax, as in Go
        self.link: bytes | None = None  # GNU K


def read_entries(source: Pieces) -> Iterator[Entry]:
    """Every entry; the caller takes exactly `entry.size` bytes from `source` before it asks for the next, the
    padding is skipped here. Raises BadArchive, Unsupported."""
    special, specials = Special(), 0
    while (block := _header_block(source)) is not None:
        type, size = _type(block), _number(block[124:136], "size")
        if type in (b"x", b"g", b"L", b"K"):
            specials += 1
            if specials > MAX_SPECIALS or not 0 <= size <= MAX_SPECIAL:
                raise BadArchive(f"an extended header of {size} bytes, or too many of them")
            body = source.take(size)
            source.skip(-size % BLOCK)
            if type == b"g":  # an entry of its own to Go, which its callers ignore; what came before it is forgotten
                special, specials = Special(), 0
            _note_special(special, type, body)
            continue
        entry = _entry(block, type, size, special)
        yield entry
        source.skip(-entry.size % BLOCK)
        special, specials = Special(), 0
    if specials:
        raise BadArchive("the archive ends after an extended header")


def _header_block(source: Pieces) -> bytes | None:
    """The next header, its sum checked; None at the end: two zero blocks, or nothing more (as Go)."""
    if source.at_end():
        return None
    block = source.take(BLOCK)
    if block == _ZEROS:
        if source.at_end() or source.take(BLOCK) == _ZEROS:
            return None
        raise BadArchive("a zero block in the middle of the archive")
    expected = _number(block[148:156], "checksum")
    around = block[:148] + block[156:]
    if sum(around) + 256 != expected and sum(b - 256 if b > 127 else b for b in around) + 256 != expected:
        raise BadArchive("a header's checksum is wrong: this is no tar archive, or a damaged one")
    return block


def _type(block: bytes) -> bytes:
    """Only of the oldest kind of entry does a slash at the end make a directory (`_entry`)."""
    type = block[156:157]
    return REGULAR if type == b"7" else type


def _number(raw: bytes, what: str) -> int:
    """Octal text, or GNU's base 256 (two's complement, high bit set)."""
    if raw[0] & 0x80:
        width = 8 * len(raw) - 1
        value = int.from_bytes(raw, "big") & ((1 << width) - 1)
        return value - (1 << width) if value >> (width - 1) else value
    text = raw.strip(b" \0").partition(b"\0")[0]
    if not text:
        return 0
    try:
        if text.isdigit():  # int() also reads signs, spaces, underscores and 0o
            return int(text, 8)
    except ValueError:
        pass
    raise BadArchive(f"a header's {what} is not a number")


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _note_special(special: Special, type: bytes, body: bytes) -> None:
    if type == b"L":
        special.name = _text(body)
    elif type == b"K":
        special.link = _text(body)
    elif type == b"x":  # of several, the last alone counts
        special.records, special.xattrs = {}, {}
        for key, value in _records(body):
            if key.startswith(_XATTR):
                special.xattrs[key[len(_XATTR) :].decode("utf-8", "surrogateescape")] = value
            else:
                special.records[key.decode("utf-8", "surrogateescape")] = value
    # "g": global records are comments of git-archive; builders' readers ignore them too


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """pax(1): "length key=value\\n", the length counting itself."""
    at = 0
    while at < len(body):
        length, space, _ = body[at : at + 20].partition(b" ")
        if not space or not length.isdigit():
            raise BadArchive("a pax record has no length")
        end = at + int(length)
        record = body[at + len(length) + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(body) or not equals or not key or record[-1:] != b"\n":
            raise BadArchive("a pax record is malformed")
        yield key, value
        at = end


def _entry(block: bytes, type: bytes, size: int, special: Special) -> Entry:
    if type == b"S" or any(key.startswith("GNU.sparse.") for key in special.records):
        raise Unsupported("the archive has a sparse file", hint="rebuild the image: layers hold plain files")
    records = special.records
    name, link = _names(block, special)
    if type == b"\0":
        type = DIRECTORY if name.endswith(b"/") else REGULAR
    if type not in _TYPES:
        raise BadArchive(f"entry {name[:200]!r} is of unknown type {type!r}")
    if value := records.get("size"):
        size = _decimal(value, "size")
    if not 0 <= size <= MAX_SIZE:
        raise BadArchive(f"entry {name[:200]!r} has the size {size}")
    if len(name) > MAX_PATH or len(link) > MAX_PATH:
        raise BadArchive(f"entry {name[:200]!r}… has a name of {len(name)} and a link of {len(link)} bytes")
    if b"\0" in name or b"\0" in link:
        raise BadArchive(f"entry {name[:200]!r} has a NUL in its name")
    device = type in (CHARACTER, BLOCK_DEVICE)
    return Entry(
        name=name,
        type=type,
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=_id(records.get("uid"), block[108:116], "uid"),
        gid=_id(records.get("gid"), block[116:124], "gid"),
        size=size if type == REGULAR else 0,
        mtime=_time(records.get("mtime"), block[136:148]),
        link=link,
        major=_number(block[329:337], "major") if device else 0,
        minor=_number(block[337:345], "minor") if device else 0,
        xattrs=special.xattrs,
    )


def _names(block: bytes, special: Special) -> tuple[bytes, bytes]:
    """Name and link target: GNU's long form, else pax, else the header's (with the ustar prefix)."""
    name, link = special.name, special.link
    if name is None:
        name = special.records.get("path") or None
    if name is None:
        name = _text(block[:100])
        width = 131 if block[508:512] == b"tar\0" else 155  # star keeps two times behind it
        prefix = _text(block[345 : 345 + width]) if block[257:263] == b"ustar\0" else b""
        name = prefix + b"/" + name if prefix else name
    if link is None:
        link = special.records.get("linkpath") or _text(block[157:257])
    return name, link


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > 20:
        raise BadArchive(f"a pax {what} is not a number")
    return int(value)


def _id(record: bytes | None, raw: bytes, what: str) -> int:
    value = _decimal(record, what) if record else _number(raw, what)
    if not 0 <= value < 1 << 32:
        raise BadArchive(f"an entry's {what} is {value}")
    return value


def _time(record: bytes | None, raw: bytes) -> int:
    """Nanoseconds. What no file system holds becomes the epoch."""
    if not record:
        seconds, nanoseconds = _number(raw, "mtime"), 0
    else:
        whole, _, fraction = record.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 18 or (fraction and not fraction.isdigit()):
            raise BadArchive("a pax mtime is not a number")
        seconds, nanoseconds = int(whole), int((fraction[:9] or b"0").ljust(9, b"0"))
        if whole.startswith(b"-"):
            nanoseconds = -nanoseconds
    if not -(1 << 33) < seconds < 1 << 34:
        return 0
    return seconds * 1_000_000_000 + nanoseconds
