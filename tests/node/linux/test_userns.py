"""User namespaces made by a forked child: what they own, and that a failure leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk import errors
from ropewalk.linux import namespaces, spawn, userns

RANGE = [userns.Range(0, 1 << 20, 65536)]


def pins(directory: Path, *kinds: str) -> dict[str, str]:
    return {kind: str(directory / kind) for kind in kinds}


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    paths = pins(tmp_path, "user", "net", "ipc", "uts")
    userns.make(paths, RANGE, RANGE, hostname="inside")
    return paths


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    for name in os.listdir(tmp_path):
        namespaces.unpin(str(tmp_path / name))


async def test_the_namespaces_belong_to_it(made: dict[str, str]) -> None:
    flags = [f"--{kind}={path}" for kind, path in made.items()]
    script = "id -u; hostname; ip link set lo up && echo up; hostname other && hostname"
    seen = await spawn.run(["nsenter", *flags, "sh", "-c", script], timeout=10)
    assert seen.stdout.decode().split() == ["0", "inside", "up", "other"]


async def test_sysctls_of_ipc_are_written_as_its_root(made: dict[str, str]) -> None:
    userns.write_sysctls(made, {"kernel.shmmax": "4096"})
    flags = [f"--{kind}={path}" for kind, path in made.items()]
    seen = await spawn.run(["nsenter", *flags, "cat", "/proc/sys/kernel/shmmax"], timeout=10)
    assert seen.stdout == b"4096\n"
    with pytest.raises(errors.Invalid, match="nosuch"):
        userns.write_sysctls(made, {"net.ipv4.nosuch": "1"})


def test_a_map_that_the_kernel_refuses_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        userns.make(pins(tmp_path, "user", "net"), [userns.Range(0, 1, 0)], RANGE)
    assert os.listdir(tmp_path) == []


def test_pins_that_are_there_are_not_taken_over(tmp_path: Path) -> None:
    paths = pins(tmp_path, "user", "net")
    Path(paths["net"]).touch()
    with pytest.raises(FileExistsError):
        userns.make(paths, RANGE, RANGE)
    assert os.listdir(tmp_path) == []
