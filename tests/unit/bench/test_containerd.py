"""The peer's versions and files."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bench import containerd, images

BASE = Path("/var/tmp/ropewalk-bench-x")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("containerd github.com/containerd/containerd/v2 2.4.2+unknown ", 2),
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", 1),
        ("containerd github.com/containerd/containerd/v2 v2.0.0 abcdef", 2),
        ("absent", 0),
    ],
)
def test_the_major_version_is_not_the_module_path(said: str, number: int) -> None:
    assert containerd.major(said) == number


@pytest.mark.parametrize(("version", "schema", "section"), [(1, 2, "grpc.v1.cri"), (2, 3, "cri.v1.runtime")])
def test_every_place_is_its_own(version: int, schema: int, section: str) -> None:
    text = containerd.configuration(version, BASE, "/usr/lib/cni")
    read = tomllib.loads(text)
    assert read["version"] == schema
    assert read["plugins"][f"io.containerd.{section}"]["restrict_oom_score_adj"] is True
    assert images.PAUSE in text
    places = [read["root"], read["state"], read["grpc"]["address"], read["ttrpc"]["address"]]
    assert all(place.startswith(f"{BASE}/") for place in places)
