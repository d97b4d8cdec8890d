from __future__ import annotations

import re
from pathlib import Path

import pytest

from ropewalk.linux import features, libc


def test_every_feature_is_probed_and_says_what_was_seen() -> None:
    found = features.probe_all()
    assert [feature.name for feature in found] == list(features.NAMES)
    assert all(feature.reason for feature in found)


def test_the_kernel_floor_has_pidfds_and_openat2() -> None:
    assert features.have("pidfd")
    assert features.have("openat2")


def test_a_feature_can_be_forced_off_for_a_while() -> None:
    with features.force_off("openat2"):
        with features.force_off("openat2"):
            assert not features.have("openat2")
        assert features.probe("openat2") == ("openat2", False, "forced off")
    assert features.have("openat2")


def test_unknown_names_are_errors() -> None:
    with pytest.raises(KeyError):
        features.have("telepathy")
    with pytest.raises(KeyError), features.force_off("telepathy"):
        pass


def test_the_kernel_floor_is_written_down(repository: Path) -> None:
    """docs/kernel-floor.md has every feature, every call made by number, and for each fallback a test that exists."""
    text = (repository / "docs/kernel-floor.md").read_text()
    assert [name for name in features.NAMES if f"`{name}`" not in text] == []
    calls = [name.removeprefix("SYS_").lower() for name in vars(libc) if name.startswith("SYS_")]
    assert len(calls) > 5
    assert [call for call in calls if f"{call}(2)" not in text and f"`{call}`" not in text] == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| What")]
    tests = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", text)
    assert len(rows) > 10
    assert [row for row in rows if "[test_" not in row.rsplit(" | ", 1)[1]] == []
    assert [name for name, file in tests if f"def {name}(" not in (repository / file).read_text()] == []
