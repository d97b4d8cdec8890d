"""The tar reader against archives by tarfile, byte by byte, and against forged ones."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ropewalk.errors import Unsupported
from ropewalk.images.worker import tar
from ropewalk.images.worker.tar import BadArchive, Entry
from tests.fakes import oci

LONG = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 120
FILES = [
    oci.directory("./"),
    oci.directory("etc/", mode=0o1777, uid=3, gid=4),
    oci.File("etc/a", b"x" * 1000, mode=0o4755, uid=1000, gid=100, mtime=1_700_000_000),
    oci.File("empty"),
    oci.File("block", b"y" * 512),
    oci.symlink("link", "etc/a"),
    oci.hard_link("hard", "etc/a"),
    oci.File("dev", type=tarfile.CHRTYPE, device=(1, 3), mode=0o666),
    oci.File("blk", type=tarfile.BLKTYPE, device=(7, 0)),
    oci.File("pipe", type=tarfile.FIFOTYPE),
    oci.File(LONG, b"long"),
    oci.symlink("longlink", LONG),
]


def read(data: bytes, size: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    source = tar.Pieces(data[at : at + size] for at in range(0, len(data), size))
    entries = []
    for entry in tar.read_entries(source):
        entries.append((entry, source.take(entry.size)))
    source.drain()
    return entries


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 1 << 20])
def test_archives_read_the_same_however_they_are_split(format: int, size: int) -> None:
    entries = read(oci.archive(FILES, format=format), size)
    assert [e.name.decode().rstrip("/") for e, _ in entries] == [f.name.rstrip("/") for f in FILES]
    assert [content for _, content in entries] == [f.content for f in FILES]
    assert [(e.type, e.mode, e.uid, e.gid, e.link.decode()) for e, _ in entries] == [
        (f.type, f.mode, f.uid, f.gid, f.link) for f in FILES
    ]
    assert [(e.major, e.minor) for e, _ in entries] == [f.device for f in FILES]


def test_pax_says_what_a_header_cannot() -> None:
    pax = {"mtime": "1700000000.123456789", "uid": "3000000000", "SCHILY.xattr.user.a": "b=c\nd", "comment": "é"}
    ((entry, _),) = read(oci.archive([oci.File("é" * 60, b"1", pax=pax)]))
    assert entry.name.decode() == "é" * 60
    assert entry.mtime == 1_700_000_000_123_456_789
    assert entry.uid == 3_000_000_000
    assert entry.xattrs == {"user.a": b"b=c\nd"}


@pytest.mark.parametrize(("text", "expected"), [("-1.5", -1_500_000_000), ("7", 7_000_000_000), ("99999999999999", 0)])
def test_times_before_the_epoch_and_beyond_reason(text: str, expected: int) -> None:
    ((entry, _),) = read(oci.archive([oci.File("a", pax={"mtime": text})]))
    assert entry.mtime == expected


def test_global_records_are_comments() -> None:
    data = raw(b"pax_global_header", b"g", pax(b"path", b"evil")) + raw(b"a", b"0", b"x")
    assert [e.name for e, _ in read(data + bytes(1024))] == [b"a"]


def test_a_size_in_pax_wins_over_the_headers() -> None:
    """CVE class "differential parsing": two readers must not see two archives."""
    inner = raw(b"smuggled", b"0", b"")
    data = raw(b"p", b"x", pax(b"size", str(len(inner)).encode())) + header(b"outer", b"0", size=0) + inner
    entries = read(data + bytes(1024))
    assert [(e.name, len(content)) for e, content in entries] == [(b"outer", len(inner))]


def test_gnu_names_win_over_pax_as_in_go() -> None:
    data = raw(b"x", b"x", pax(b"path", b"pax")) + raw(b"l", b"L", b"gnu\0") + raw(b"plain", b"0", b"")
    assert [e.name for e, _ in read(data + bytes(1024))] == [b"gnu"]


def test_what_is_no_regular_file_has_no_content() -> None:
    data = header(b"dir/", b"5", size=512) + raw(b"a", b"0", b"x") + bytes(1024)
    assert [(e.name, e.size) for e, _ in read(data)] == [(b"dir/", 0), (b"a", 1)]


def test_an_end_may_be_missing() -> None:
    assert [e.name for e, _ in read(raw(b"a", b"0", b"x"))] == [b"a"]
    assert read(b"") == []
    assert read(bytes(512)) == []
    assert read(bytes(1024) + b"anything") == []


def test_old_kinds_of_regular_files() -> None:
    entries = read(raw(b"a", b"\0", b"x") + raw(b"b", b"7", b"y") + raw(b"dir/", b"\0", b""))
    assert [(e.name, e.type) for e, _ in entries] == [(b"a", b"0"), (b"b", b"0"), (b"dir/", b"5")]


def test_a_slash_makes_no_directory_of_a_regular_file() -> None:
    """Go skips its content, which must not be read as entries here."""
    inner = raw(b"smuggled", b"0", b"")
    entries = read(raw(b"file/", b"0", inner) + bytes(1024))
    assert [(e.name, e.type, len(content)) for e, content in entries] == [(b"file/", b"0", len(inner))]


def test_the_last_of_several_pax_headers_counts_alone() -> None:
    first = raw(b"x", b"x", pax(b"path", b"evil") + pax(b"SCHILY.xattr.user.a", b"b"))
    ((entry, _),) = read(first + raw(b"x", b"x", pax(b"mtime", b"1")) + raw(b"plain", b"0", b"") + bytes(1024))
    assert (entry.name, entry.mtime, entry.xattrs) == (b"plain", 1_000_000_000, {})


def test_a_global_header_ends_what_was_said_of_the_next_entry() -> None:
    said = raw(b"x", b"x", pax(b"path", b"evil")) + raw(b"l", b"L", b"evil\0")
    comment = raw(b"pax_global_header", b"g", pax(b"comment", b"c"))
    assert [e.name for e, _ in read(said + comment + raw(b"plain", b"0", b"") + bytes(1024))] == [b"plain"]
    assert read(comment + bytes(1024)) == []


def test_stars_prefix_ends_before_its_times() -> None:
    data = bytearray(header(b"name", b"0"))
    data[345:476] = b"d" * 131
    data[476:488] = b"00000000001 "
    data[508:512] = b"tar\0"
    ((entry, _),) = read(checksummed(data))
    assert entry.name == b"d" * 131 + b"/name"


def test_a_pax_header_is_read_once() -> None:
    """A megabyte of small records took three seconds, and archives of them compress to nothing."""

    class Counted(bytes):
        copied = 0

        def __getitem__(self, key: Any) -> Any:
            piece: Any = super().__getitem__(key)
            Counted.copied += len(piece) if isinstance(piece, bytes) else 0
            return Counted(piece) if isinstance(piece, bytes) else piece

    body = Counted(b"5 a=\n" * 2000)
    assert len(list(tar._records(body))) == 2000
    assert Counted.copied < 20 * len(body)


def test_base_256_numbers() -> None:
    data = bytearray(header(b"a", b"0"))
    data[108:116] = b"\x80" + (70_000_000).to_bytes(7, "big")
    ((entry, _),) = read(checksummed(data))
    assert entry.uid == 70_000_000


def header(name: bytes, type: bytes, *, size: int = 0, link: bytes = b"", **fields: bytes) -> bytes:
    info = tarfile.TarInfo(name.decode())
    info.type, info.size, info.linkname = type, size, link.decode()
    return info.tobuf(tarfile.USTAR_FORMAT)


def raw(name: bytes, type: bytes, content: bytes) -> bytes:
    return header(name, type, size=len(content)) + content + bytes(-len(content) % 512)


def pax(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def checksummed(data: bytearray) -> bytes:
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def changed(at: int, value: bytes, type: bytes = b"0") -> bytes:
    data = bytearray(header(b"a", type, size=0))
    data[at : at + len(value)] = value
    return checksummed(data)


def many(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield raw(b"l", b"L", b"name\0")


FORGED: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: b"garbage" * 100,
    "short header": lambda: header(b"a", b"0")[:300],
    "content cut off": lambda: raw(b"a", b"0", b"x" * 600)[:-100],
    "padding cut off": lambda: header(b"a", b"0", size=1) + b"x",
    "checksum": lambda: header(b"a", b"0")[:148] + b"000000\0 " + header(b"a", b"0")[156:],
    "checksum no number": lambda: header(b"a", b"0")[:148] + b"zzzzzzzz" + header(b"a", b"0")[156:],
    "zero block inside": lambda: raw(b"a", b"0", b"") + bytes(512) + raw(b"b", b"0", b""),
    "unknown type": lambda: changed(156, b"Z"),
    "negative size": lambda: changed(124, b"\xff" * 12),
    "size above all": lambda: changed(124, b"\x80" + b"\x7f" * 11),
    "size no number": lambda: changed(124, b"9" * 11),
    "negative uid": lambda: changed(108, b"\xff" * 8),
    "mode no number": lambda: changed(100, b"rwxr-xr\0"),
    "mode with underscore": lambda: changed(100, b"00_0644\0"),
    "mode with sign": lambda: changed(100, b"+000644\0"),
    "mode with prefix": lambda: changed(100, b"0o00644\0"),
    "pax size negative": lambda: raw(b"x", b"x", pax(b"size", b"-1")) + raw(b"a", b"0", b""),
    "pax size huge": lambda: raw(b"x", b"x", pax(b"size", b"9" * 30)) + raw(b"a", b"0", b""),
    "pax size unicode": lambda: raw(b"x", b"x", pax(b"size", "１".encode())) + raw(b"a", b"0", b""),
    "pax uid too large": lambda: raw(b"x", b"x", pax(b"uid", b"4294967296")) + raw(b"a", b"0", b""),
    "pax mtime": lambda: raw(b"x", b"x", pax(b"mtime", b"now")) + raw(b"a", b"0", b""),
    "pax path with NUL": lambda: raw(b"x", b"x", pax(b"path", b"a\0b")) + raw(b"a", b"0", b""),
    "pax link with NUL": lambda: raw(b"x", b"x", pax(b"linkpath", b"a\0b")) + raw(b"a", b"2", b""),
    "pax path too long": lambda: raw(b"x", b"x", pax(b"path", b"a/" * 2500)) + raw(b"a", b"0", b""),
    "pax no length": lambda: raw(b"x", b"x", b"path=a\n") + raw(b"a", b"0", b""),
    "pax length too large": lambda: raw(b"x", b"x", b"99 path=a\n") + raw(b"a", b"0", b""),
    "pax length zero": lambda: raw(b"x", b"x", b"0 path=a\n") + raw(b"a", b"0", b""),
    "pax no newline": lambda: raw(b"x", b"x", b"9 path=ab") + raw(b"a", b"0", b""),
    "pax no key": lambda: raw(b"x", b"x", pax(b"", b"v")) + raw(b"a", b"0", b""),
    "pax alone": lambda: raw(b"x", b"x", pax(b"path", b"a")),
    "pax too large": lambda: header(b"x", b"x", size=(1 << 20) + 1) + bytes(1 << 21),
    "name too large": lambda: header(b"x", b"L", size=(8 << 30) - 1),
    "name too long": lambda: raw(b"x", b"L", b"a" * 5000) + raw(b"a", b"0", b""),
    "extended headers without end": lambda: b"".join(many(100)),
}


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("size", [512, 1 << 22])
def test_forged_archives_are_refused(name: str, size: int) -> None:
    with pytest.raises(BadArchive):
        read(FORGED[name](), size)


@pytest.mark.parametrize(
    "data",
    [
        raw(b"a", b"S", b""),
        raw(b"x", b"x", pax(b"GNU.sparse.major", b"1") + pax(b"GNU.sparse.minor", b"0")) + raw(b"a", b"0", b""),
        raw(b"x", b"x", pax(b"GNU.sparse.map", b"0,1," * 1000)) + raw(b"a", b"0", b""),
    ],
)
def test_sparse_files_are_refused_in_clear_words(data: bytes) -> None:
    with pytest.raises(Unsupported, match="sparse"):
        read(data)
