"""The real containerd-shim-kata-v2, where it is on PATH: what it says when it lacks something, and that nothing stays.

A pod needs KVM, vhost-vsock and a guest image: docs/runtimes/kata.md says what was run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.runtimes.handler import Level
from ropewalk.runtimes.handlers import shim
from tests.contract.benches import KATA
from tests.fakes.boxes import Place

PROGRAM = shutil.which(KATA)
NO_SYSLOG = "Unix syslog delivery error"  # said before anything else where /dev/log is absent
SECONDS = 10.0

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=f"no {KATA} on PATH")


@pytest.fixture
async def kata(place: Place, tmp_path: Path) -> AsyncIterator[shim.Handler]:
    assert PROGRAM is not None
    handler = shim.Handler(shim.Config(path=PROGRAM, config_path=str(tmp_path / "kata.toml")), place.node, name="kata")
    await handler.prepare()
    yield handler
    await handler.close()
    assert place.found() == []


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ("", "Cannot find usable config file"),
        (
            '[hypervisor.qemu]\npath = "/bin/true"\nkernel = "/nonexistent/vmlinux"\n',
            "/nonexistent/vmlinux does not exist",
        ),
        ('[hypervisor.qemu]\npath = "/nonexistent/qemu"\nkernel = "/bin/true"\n', "/nonexistent/qemu does not exist"),
    ],
)
async def test_what_is_missing_is_named_at_once(
    kata: shim.Handler, tmp_path: Path, configuration: str, says: str
) -> None:
    if configuration:
        (tmp_path / "kata.toml").write_text(configuration)
    began = time.monotonic()
    probe = await kata.probe()
    assert time.monotonic() - began < SECONDS
    assert probe.level is Level.PRESENT
    assert says in probe.evidence or NO_SYSLOG in probe.evidence
    assert probe.advice
    assert "unknown" not in probe.version  # of its library
