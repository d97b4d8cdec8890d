from __future__ import annotations

import pytest

from ropewalk.linux import features


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
