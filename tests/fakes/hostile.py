"""Layers made to reach out of their directory (T1): each must be refused, or stay inside.

The models are the path and link escapes of reference peers.md 3.1: traversal by name, by link, by hard link, by
whiteout, through a parent that changes its type, with every type of entry.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.fakes.oci import File, directory, hard_link, symlink

NAMES = [
    "..",
    "../x",
    "../../x",
    "a/../../x",
    "a/../x",
    "/../x",
    "./../x",
    "//..//x",
    "a/b/../../../x",
    "../",
    "x/..",
    "x/../",
    "./..",
    "a/./../../x",
    "n" * 256,
    "a/" + "n" * 300,
    "a/" * 300 + "x",
]


class Case(NamedTuple):
    files: list[File]
    must_fail: bool = False
    needs_root: bool = False


Make = Callable[[str], File]
TYPES: dict[str, tuple[Make, bool]] = {
    "file": (lambda name: File(name, b"evil", mode=0o777), False),
    "directory": (lambda name: directory(name, mode=0o777), False),
    "symlink": (lambda name: symlink(name, "/etc/passwd"), False),
    "hard link": (lambda name: hard_link(name, "seed"), False),
    "fifo": (lambda name: File(name, type=tarfile.FIFOTYPE), False),
    "character": (lambda name: File(name, type=tarfile.CHRTYPE, device=(1, 3)), True),
    "block": (lambda name: File(name, type=tarfile.BLKTYPE, device=(7, 0)), True),
}
SEED = File("seed", b"seed")


def corpus(outside: str) -> dict[str, Case]:
    """`outside`: the absolute path of a directory with canary, canary.d and canary.link that must not change."""
    cases: dict[str, Case] = {}
    cases.update(_by_name())
    cases.update(_by_link(outside))
    cases.update(_by_replacement(outside))
    cases.update(_by_hard_link(outside))
    cases.update(_by_whiteout(outside))
    cases.update(_odd_devices())
    return cases


def _by_name() -> Iterator[tuple[str, Case]]:
    for type, (make, root) in TYPES.items():
        for name in NAMES:
            yield f"{type} named {name[:20]!r}+{len(name)}", Case([SEED, make(name)], True, root)
        yield f"{type} absolute", Case([SEED, make("/abs/x")], False, root)


def _links(outside: str) -> dict[str, list[File]]:
    """Ways to make `out` lead outside."""
    up = "../" * 40
    chain = [symlink(f"l{n}", f"l{n + 1}") for n in range(39)] + [symlink("l39", outside), symlink("out", "l0")]
    return {
        "absolute link": [symlink("out", outside)],
        "relative link": [symlink("out", up + outside.lstrip("/"))],
        "link to /": [symlink("out", "/")],
        "link to ..": [symlink("out", "..")],
        "link to .": [symlink("out", ".")],
        "link to itself": [symlink("out", "out")],
        "loop": [symlink("out", "other"), symlink("other", "out")],
        "chain": chain,
        "link in a directory": [directory("d"), symlink("d/up", "../.."), symlink("out", "d/up/..")],
        "link to proc": [symlink("out", "/proc/self/root")],
        "link to a descriptor": [symlink("out", "/proc/self/fd/3")],
        "hard link to a link": [symlink("first", outside), hard_link("out", "first")],
    }


def _by_link(outside: str) -> Iterator[tuple[str, Case]]:
    """Write through `out`, with every type of entry."""
    for how, links in _links(outside).items():
        for type, (make, root) in TYPES.items():
            for name in ("out/x", "out/canary", "out/canary.d/x"):
                yield f"{type} at {name} by {how}", Case([SEED, *links, make(name)], False, root)
        for name in ("out/.wh.canary", "out/.wh..wh..opq", "out/canary.d/.wh..wh..opq"):
            yield f"{name} by {how}", Case([*links, File(name)], False, True)


def _by_replacement(outside: str) -> Iterator[tuple[str, Case]]:
    """A name changes its type between entries."""
    for type, (make, root) in TYPES.items():
        yield f"{type} in place of a link", Case([SEED, symlink("out", outside), make("out")], False, root)
        yield (
            f"{type} in place of a link to a file",
            Case([SEED, symlink("out", f"{outside}/canary"), make("out")], False, root),
        )
        between = [SEED, directory("d"), File("d/f", b"1"), make("d"), File("d/g", b"2")]
        yield f"{type} in place of a full directory", Case(between, type not in ("directory",), root)
        swapped = [directory("d"), File("d/f"), symlink("d", outside), File("d/canary", b"evil"), directory("d", 0o777)]
        yield f"directory, link, {type}", Case([SEED, *swapped, make("d/x")], False, root)
    pax = {"SCHILY.xattr.user.evil": "1"}
    for name in ("out", "out/canary", "out/canary.d"):
        yield f"metadata of {name}", Case([symlink("out", outside), directory(name, 0o777, mtime=1, pax=pax)])
        yield f"file metadata of {name}", Case([symlink("out", outside), File(name, mode=0o4777, mtime=1, pax=pax)])
    yield "link, then its metadata", Case([symlink("out", f"{outside}/canary", pax=pax, mtime=1)], False, True)


def _by_hard_link(outside: str) -> Iterator[tuple[str, Case]]:
    for target in (*NAMES, f"{outside}/canary", "absent", "d", "", "/", "."):
        files = [directory("d"), hard_link("h", target), File("h", b"evil", mode=0o777)]
        shown = target.replace(outside, "outside")
        yield f"hard link to {shown[:20]!r}+{len(shown)}", Case(files, True)
    for how, links in _links(outside).items():
        for target in ("out", "out/canary", "out/canary.d", "out/canary.link"):
            files = [*links, hard_link("h", target), File("h", b"evil", mode=0o777)]
            yield f"hard link to {target} by {how}, written to", Case(files)
    yield "hard link to itself", Case([hard_link("h", "h")], True)
    yield "hard link to itself, replaced", Case([File("h"), hard_link("h", "h")], True)
    yield "hard link to a whiteout", Case([File(".wh.h"), hard_link("x", "h")], True, True)


def _by_whiteout(outside: str) -> Iterator[tuple[str, Case]]:
    for name in (".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh.."):
        yield f"whiteout {name}", Case([File(name)], True)
    for name in ("../.wh.canary", "a/../../.wh.canary", "../.wh..wh..opq"):
        yield f"whiteout {name}", Case([File(name)], True)
    yield "whiteout of a link", Case([symlink("out", outside), File(".wh.out"), File("out/x", b"evil")], False, True)
    yield "below a whiteout", Case([File(".wh.out"), File("out/x", b"fine"), directory("out/d")], False, True)
    yield "below a whiteout's name", Case([File(".wh.out/x", b"x"), File(".wh..wh.plnk/1.2", b"x")])
    yield "whiteout with content", Case([File(".wh.out", b"x" * 2000), File("after", b"y")], False, True)


def _odd_devices() -> Iterator[tuple[str, Case]]:
    yield "forged whiteout", Case([File("out", type=tarfile.CHRTYPE, device=(0, 0)), File("after")], False, True)
    for device in ((4096, 0), (0, 1 << 20), (2_000_000, 2_000_000)):
        for type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            yield f"device {device} {type!r}", Case([File("dev", type=type, device=device)], True, True)
    for key in (
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.overlay.opaque",
    ):
        files = [directory("d", pax={f"SCHILY.xattr.{key}": "y"}), File("f", pax={f"SCHILY.xattr.{key}": "/etc"})]
        yield f"xattr {key}", Case(files)
    yield "security label", Case([File("f", pax={"SCHILY.xattr.security.selinux": "x"})])
    for name in ("c", "C", "ﬁ", "a\tb", "a\nb", "-rf", "*", "$(id)", "con"):
        yield f"odd name {name!r}", Case([File(name, b"1"), directory(f"{name}.d"), File(f"{name}.d/{name}", b"2")])
