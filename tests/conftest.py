"""What every test may use. Directories are tiers: tests/unit needs nothing, tests/node root and a kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hatch_build
from tools import trace

# gRPC starts threads in the children of a process that has used it; what tests fork (linux/userns.py) must have one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

ROOT = Path(__file__).parents[1]
NEEDS_ROOT = ("node", "interop")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The project's own directory."""
    return ROOT


def pytest_configure(config: pytest.Config) -> None:
    """What runs is made of the source that is there, however pytest was started."""
    trace.run_names()  # what is chosen here holds in the workers of xdist, too
    if not hasattr(config, "workerinput"):  # once, not in each of them
        hatch_build.compile_monitor(ROOT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the tiers that need root are skipped without it, and may take longer."""
    for item in items:
        relative = item.path.relative_to(ROOT / "tests")
        if relative.parts[0] not in NEEDS_ROOT:
            continue
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason=f"tests/{relative.parts[0]} needs root"))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))
