"""The root file system of a pod's init."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ropewalk.errors import Unsupported
from ropewalk.runtimes.drivers import init


def test_it_has_the_program_that_is_installed_now(tmp_path: Path) -> None:
    program = tmp_path / "catatonit"
    program.write_bytes(b"one")
    program.chmod(0o755)
    root = Path(init.ensure_rootfs(str(tmp_path), str(program)))
    copy = root / "catatonit"
    running = copy.open("rb")
    before = os.fstat(running.fileno())
    init.ensure_rootfs(str(tmp_path), str(program))
    assert os.path.samestat(copy.stat(), before)
    program.write_bytes(b"two")  # of the same size
    os.utime(program, ns=(1, 1))
    assert init.ensure_rootfs(str(tmp_path), str(program)) == str(root)
    assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (b"two", 0o555)
    assert running.read() == b"one"  # what runs keeps its own
    running.close()
    assert sorted(os.listdir(root)) == ["catatonit", *sorted(init.DIRECTORIES)]
    with pytest.raises(Unsupported, match="nothing-of-this-name"):
        init.ensure_rootfs(str(tmp_path), "nothing-of-this-name")
