"""The manifest that fits this node best."""

from __future__ import annotations

import pytest

from ropewalk.errors import NotFound
from ropewalk.images import platforms
from ropewalk.images.descriptor import OCI_MANIFEST, Descriptor, Index, Platform

AMD64_V3 = Platform("linux", "amd64", "v3")
ARM64 = Platform("linux", "arm64", "v8")


def index(*offered: str) -> Index:
    children = []
    for number, text in enumerate(offered):
        parts = text.split("/")
        platform = Platform(*parts) if text else None
        children.append(Descriptor(OCI_MANIFEST, f"sha256:{number:064}", 1, platform))
    return Index(children)


@pytest.mark.parametrize(
    ("offered", "node", "chosen"),
    [
        (("linux/arm64", "linux/amd64"), AMD64_V3, 1),
        (("linux/amd64", "linux/amd64/v3", "linux/amd64/v2"), AMD64_V3, 1),
        (("linux/amd64/v4", "linux/amd64/v2", "linux/amd64"), AMD64_V3, 1),
        (("linux/386", "linux/amd64"), AMD64_V3, 1),
        (("windows/amd64", "linux/386"), AMD64_V3, 1),
        (("linux/arm/v6", "linux/arm/v7", "linux/arm64"), ARM64, 2),
        (("linux/arm/v5", "linux/arm/v7"), ARM64, 1),
        (("linux/arm/v6", "linux/arm/v7", "linux/arm/v8"), Platform("linux", "arm", "v7"), 1),
        (("unknown/unknown", "linux/amd64"), AMD64_V3, 1),
        (("linux/amd64", "linux/amd64"), AMD64_V3, 0),
        (("linux/s390x", ""), AMD64_V3, 1),
        (("", "linux/amd64"), AMD64_V3, 1),
    ],
)
def test_the_best_fitting_child_is_chosen(offered: tuple[str, ...], node: Platform, chosen: int) -> None:
    assert platforms.choose(index(*offered), node, "x").digest == f"sha256:{chosen:064}"


def test_an_index_without_a_fit_says_what_it_offers() -> None:
    with pytest.raises(NotFound, match=r"no image for linux/amd64/v3; it offers linux/arm64, windows/amd64"):
        platforms.choose(index("windows/amd64", "linux/arm64", "unknown/unknown"), AMD64_V3, "x")


def test_unknown_kinds_of_children_are_passed_over() -> None:
    strange = Descriptor("application/x", "sha256:" + "f" * 64, 1, Platform("linux", "amd64"))
    with pytest.raises(NotFound):
        platforms.choose(Index([strange]), AMD64_V3, "x")


def test_the_level_of_a_cpu_needs_all_of_the_level_below() -> None:
    v2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
    v3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
    assert platforms._amd64_level(frozenset()) == "v1"
    assert platforms._amd64_level(frozenset(v2)) == "v2"
    assert platforms._amd64_level(frozenset(v3)) == "v1"
    assert platforms._amd64_level(frozenset(v2 | v3)) == "v3"


def test_this_node_has_a_platform() -> None:
    assert platforms.read_node().os == "linux"
    assert platforms.read_node().architecture
