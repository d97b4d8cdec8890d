"""Which platform this node is, and which manifest of an index fits it best (image-spec, image-index.md)."""

from __future__ import annotations

import os

from ropewalk.errors import NotFound
from ropewalk.images.descriptor import INDEXES, MANIFESTS, Descriptor, Index, Platform

# uname(2) machine -> (GOARCH, variant)
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
# x86-64 psABI, micro-architecture levels: what each adds, by the names of /proc/cpuinfo.
_LEVELS = (
    ("v2", frozenset(("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"))),
    ("v3", frozenset(("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"))),
    ("v4", frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))),
)
_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}  # an absent variant means this one
_ALSO_RUNS = {"amd64": "386", "arm64": "arm"}  # 32-bit programs on a 64-bit node, as a last choice


def read_node() -> Platform:
    """The platform of this node."""
    architecture, variant = _MACHINES.get(os.uname().machine, (os.uname().machine, ""))
    if architecture == "amd64":
        variant = _amd64_level(_read_cpu_flags())
    return Platform("linux", architecture, variant)


def _read_cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())


def _amd64_level(flags: frozenset[str]) -> str:
    level = "v1"
    for name, needs in _LEVELS:
        if not needs <= flags:
            break
        level = name
    return level


def rank(candidate: Platform, node: Platform) -> int | None:
    """How well `candidate` fits: higher is better, None is not at all. A newer variant than the node's never fits."""
    if candidate.os != node.os:
        return None
    if candidate.architecture == node.architecture:
        variant = _variant(candidate)
        return 1000 + variant if variant <= _variant(node) else None
    if candidate.architecture == _ALSO_RUNS.get(node.architecture):
        return _variant(candidate)
    return None


def _variant(platform: Platform) -> int:
    digits = (platform.variant or _DEFAULT_VARIANT.get(platform.architecture, "")).lstrip("v")
    return int(digits) if digits.isdigit() and len(digits) < 3 else 0


def choose(index: Index, node: Platform, what: str) -> Descriptor:
    """The child of an index for this node: a manifest, or an index within. Raises NotFound listing what there is."""
    best: tuple[int, Descriptor] | None = None
    unnamed: list[Descriptor] = []
    for child in index.manifests:
        if child.media_type not in INDEXES | MANIFESTS:
            continue  # image-index.md: unknown types are ignored
        if child.platform is None:
            unnamed.append(child)  # decided by its config
            continue
        fit = rank(child.platform, node)
        if fit is not None and (best is None or fit > best[0]):
            best = fit, child
    if best is not None:
        return best[1]
    if unnamed:
        return unnamed[0]
    offered = sorted({str(c.platform) for c in index.manifests if c.platform and c.platform.os != "unknown"})
    raise NotFound(f"{what} has no image for {node}", hint=f"it offers {', '.join(offered) or 'none'}")
