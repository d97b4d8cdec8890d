"""HPACK, the compression of HTTP/2's headers (RFC 7541): all of decoding; encoding without a table or Huffman codes."""

from __future__ import annotations

from collections import deque

TABLE_SIZE = 4096  # octets that the peer may have us keep: SETTINGS_HEADER_TABLE_SIZE's default
ENTRY = 32  # octets that an entry counts beside its name and value
MAX_INTEGER = 1 << 24  # no length and no index here is near to it

Header = tuple[bytes, bytes]

_STATIC: list[Header] = [  # appendix A
    (name, value)
    for line in (
        b":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200",
        b":status=204|:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset",
        b"accept-encoding=gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow",
        b"authorization|cache-control|content-disposition|content-encoding|content-language|content-length",
        b"content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match",
        b"if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards",
        b"proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie",
        b"strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate",
    )
    for name, _, value in (entry.partition(b"=") for entry in line.split(b"|"))
]

# Appendix B. The code is canonical: the lengths of the codes of 0 to 255 and of the end decide it.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606060607"
    "080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605060706050506"
    "07070707070f0b0e0d1c141614141616161716171717171718171818161718171717171516171617171816151416161717151716161815161717151"
    "516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b1418141516151517161619191"
    "8181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_END = 256


def _codes() -> dict[tuple[int, int], int]:
    """Symbol by (length, code)."""
    found: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - before
        found[length, code] = symbol
        code, before = code + 1, length
    return found


_CODES = _codes()


class HpackError(Exception):
    """The block cannot be read; what comes after it on the connection cannot be either (RFC 7541, 2.2)."""


class Decoder:
    """The table of one connection's one direction."""

    def __init__(self) -> None:
        self._table: deque[Header] = deque()  # the newest first
        self._size = 0
        self._limit = TABLE_SIZE

    def decode(self, block: bytes) -> list[Header]:
        """The headers of one block. HpackError."""
        headers: list[Header] = []
        at = 0
        try:
            while at < len(block):
                first = block[at]
                if first & 0x80:  # 6.1
                    index, at = _integer(block, at, 7)
                    headers.append(self._entry(index))
                elif first & 0xE0 == 0x20:  # 6.3
                    size, at = _integer(block, at, 5)
                    if size > TABLE_SIZE or headers:
                        raise HpackError("a table size that is not allowed here")
                    self._limit = size
                    self._evict()
                else:  # 6.2
                    indexed = first & 0x40
                    index, at = _integer(block, at, 6 if indexed else 4)
                    if index:
                        name = self._entry(index)[0]
                    else:
                        name, at = _string(block, at)
                    value, at = _string(block, at)
                    headers.append((name, value))
                    if indexed:
                        self._add(name, value)
        except IndexError:
            raise HpackError("a block that ends within a header") from None
        return headers

    def _entry(self, index: int) -> Header:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        index -= len(_STATIC) + 1
        if not 0 <= index < len(self._table):
            raise HpackError("no entry has that index")
        return self._table[index]

    def _add(self, name: bytes, value: bytes) -> None:
        self._table.appendleft((name, value))
        self._size += len(name) + len(value) + ENTRY
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + ENTRY


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """5.1: the number in the low `bits` of block[at], and where it ends."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        octet = block[at]
        at += 1
        value += (octet & 0x7F) << shift
        if value > MAX_INTEGER:
            raise HpackError("a number that is too large")
        if octet < 0x80:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """5.2"""
    coded = block[at] & 0x80
    size, at = _integer(block, at, 7)
    end = at + size
    if end > len(block):
        raise HpackError("a string that is longer than its block")
    text = block[at:end]
    return (_expand(text) if coded else text), end


def _expand(text: bytes) -> bytes:
    """Huffman codes; what is left at the end are less than eight ones."""
    found = bytearray()
    code = length = 0
    for octet in text:
        for shift in range(7, -1, -1):
            code = code << 1 | octet >> shift & 1
            length += 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                if symbol == _END:
                    raise HpackError("an end within a string")
                found.append(symbol)
                code = length = 0
    if length > 7 or code != (1 << length) - 1:
        raise HpackError("a string that ends within a character")
    return bytes(found)


def encode(headers: list[Header]) -> bytes:
    """Each as a literal that nobody keeps (6.2.2)."""
    return b"".join(b"\0" + _encoded(name) + _encoded(value) for name, value in headers)


def _encoded(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    prefix = bytearray((127,))
    size -= 127
    while size > 127:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text
