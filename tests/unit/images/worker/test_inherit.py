"""Directories that no entry described, from the layers below. Whiteouts and opaque ones need root: tests/node."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.images import jobs
from ropewalk.images.worker import inherit

DEEP = "a/b/c/d/e/f/g/h"


def run(top: Path, *below: Path) -> None:
    inherit.inherit(jobs.Inherit(str(top), [str(layer) for layer in below], [DEEP.encode()]))


def mode(layer: Path) -> int:
    return (layer / DEEP).stat().st_mode & 0o7777


def layer(tmp_path: Path, name: str, path: str = DEEP, bits: int = 0o755) -> Path:
    (tmp_path / name / path).mkdir(parents=True)
    (tmp_path / name / path).chmod(bits)
    return tmp_path / name


def test_the_topmost_layer_that_has_it_decides(tmp_path: Path) -> None:
    top, silent = layer(tmp_path, "top"), layer(tmp_path, "silent", "a/b")
    run(top, silent, layer(tmp_path, "middle", bits=0o1777), layer(tmp_path, "bottom", bits=0o700))
    assert mode(top) == 0o1777


@pytest.mark.parametrize("file", ["a", "a/b/c", DEEP])
def test_what_a_layer_between_replaced_is_not_taken(tmp_path: Path, file: str) -> None:
    between = tmp_path / "between"
    (between / file).parent.mkdir(parents=True)
    (between / file).write_text("in place of a directory")
    top = layer(tmp_path, "top")
    run(top, between, layer(tmp_path, "bottom", bits=0o700))
    assert mode(top) == 0o755


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
def test_many_layers_need_few_descriptors(tmp_path: Path) -> None:
    silent = [layer(tmp_path, f"silent{n}", "a/b/c/d/e/f/g") for n in range(60)]
    top = layer(tmp_path, "top")
    run(top, *silent, layer(tmp_path, "bottom", bits=0o1777))
    assert mode(top) == 0o1777
