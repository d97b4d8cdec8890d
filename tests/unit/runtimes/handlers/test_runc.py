"""runc's settings, and that nothing runs before it is asked."""

from __future__ import annotations

from pathlib import Path

from ropewalk.linux import cgroup
from ropewalk.runtimes import refusals
from ropewalk.runtimes.handler import Boundary, Node
from ropewalk.runtimes.handlers import runc
from ropewalk.spec.pod import PodSpec


def test_it_is_built_without_its_programs(tmp_path: Path) -> None:
    handler = runc.Handler(runc.Config(path="/absent", monitor="/absent"), Node(str(tmp_path), cgroup.detect()))
    assert handler.name == "runc"
    assert handler.capabilities.boundary is Boundary.NAMESPACES
    refusals.check(handler, PodSpec())  # it honours every field
    assert sorted(path.name for path in tmp_path.iterdir()) == ["consoles", "containers", "exits", "runtimes"]
