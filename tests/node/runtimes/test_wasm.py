"""A handler for WebAssembly is crun with an annotation, and works only where crun has an engine."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.linux import orphans
from ropewalk.runtimes import wasm
from ropewalk.runtimes.handler import Level
from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Place

ANNOTATIONS = {"run.oci.handler": "wasm"}
PRETENDER = """#!/bin/sh
test "$1" = --version || exec crun "$@"
echo "crun version 1.21"
echo "+SYSTEMD +SECCOMP +WASM:wasmedge +YAJL"
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    reaper = orphans.Orphans()
    place = Place(tmp_path)
    yield place
    assert place.found() == []
    await place.close()
    reaper.close()


async def test_a_crun_without_an_engine_says_so(place: Place) -> None:
    handler = crun.Handler(crun.Config(annotations=ANNOTATIONS), place.node, name="wasm")
    probe = await handler.probe()
    if probe.works:
        pytest.skip("this crun has one")
    assert probe.level is Level.PRESENT
    assert "without WebAssembly" in probe.evidence
    assert "libwasmedge0" in probe.advice


async def test_a_promise_of_the_version_is_not_believed(place: Place, tmp_path: Path) -> None:
    """The module is really run: by a crun that only says that it could, it is not."""
    program = tmp_path / "crun"
    program.write_text(PRETENDER)
    os.chmod(program, stat.S_IRWXU)
    handler = crun.Handler(crun.Config(path=str(program), annotations=ANNOTATIONS), place.node, name="wasm")
    probe = await handler.probe()
    assert probe.level is Level.PRESENT
    assert probe.evidence.startswith("+WASM:wasmedge, but a module")


def test_the_module_is_one() -> None:
    """WebAssembly's binary format: magic, version, then sections by id, each with its size."""
    assert wasm.MODULE[:8] == b"\0asm\1\0\0\0"
    at, seen = 8, []
    while at < len(wasm.MODULE):
        seen.append(wasm.MODULE[at])
        at += 2 + wasm.MODULE[at + 1]
    assert (seen, at) == ([1, 3, 7, 10], len(wasm.MODULE))
