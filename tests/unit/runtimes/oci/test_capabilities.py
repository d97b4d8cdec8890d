"""Capability sets: the table of peers T14, and what holds for all requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk import errors
from ropewalk.runtimes.oci import capabilities
from ropewalk.spec.container import Capability

SHORT = sorted(name.removeprefix("CAP_") for name in capabilities.KNOWN)
NAMES = st.lists(st.sampled_from([*SHORT, "ALL"]), max_size=6)


def sets(
    add: list[str] | None = None,
    drop: list[str] | None = None,
    ambient: list[str] | None = None,
    *,
    privileged: bool = False,
    bounding: frozenset[str] = capabilities.KNOWN,
    uid: int = 0,
) -> dict[str, list[str]]:
    asked = Capability(add or [], drop or [], ambient or [])
    return capabilities.sets(asked, privileged=privileged, bounding=bounding, uid=uid)


def test_default_is_the_fourteen() -> None:
    found = sets()
    assert len(found["bounding"]) == 14
    assert found["bounding"] == found["effective"] == found["permitted"] == sorted(capabilities.DEFAULT)
    assert found["inheritable"] == found["ambient"] == []


def test_add_and_drop() -> None:
    assert "CAP_NET_ADMIN" in sets(["net_admin"])["effective"]
    assert "CAP_SYS_TIME" in sets(["CAP_SYS_TIME"])["effective"]
    assert "CAP_NET_RAW" not in sets(drop=["NET_RAW"])["bounding"]
    assert sets(drop=["ALL"])["bounding"] == []
    assert sets(["CHOWN"], ["all"])["bounding"] == ["CAP_CHOWN"]
    assert set(sets(["ALL"], ["SYS_ADMIN"])["bounding"]) == capabilities.KNOWN - {"CAP_SYS_ADMIN"}
    assert sets(["KILL"], ["KILL"])["bounding"] == sorted(capabilities.DEFAULT - {"CAP_KILL"})


def test_all_means_the_daemons_own() -> None:
    own = capabilities.KNOWN - {"CAP_SYS_RESOURCE"}
    assert set(sets(["ALL"], bounding=own)["bounding"]) == own
    assert set(sets(privileged=True, bounding=own)["effective"]) == own
    assert capabilities.missing(Capability(["SYS_RESOURCE", "ALL"]), own) == ["CAP_SYS_RESOURCE"]


def test_other_users_have_none_but_ambient_ones() -> None:
    found = sets(["NET_ADMIN"], uid=1000)
    assert "CAP_NET_ADMIN" in found["bounding"]
    assert found["effective"] == found["permitted"] == found["inheritable"] == found["ambient"] == []
    found = sets(ambient=["NET_ADMIN"], uid=1000)
    assert found["effective"] == found["permitted"] == found["inheritable"] == found["ambient"] == ["CAP_NET_ADMIN"]
    assert "CAP_NET_ADMIN" in found["bounding"]


def test_unknown_names_are_refused() -> None:
    for name in ("FOO", "", "CAP_", "CAP_CAP_CHOWN", "NET ADMIN", "net_admin\n"):
        with pytest.raises(errors.Invalid, match="which is no capability"):
            sets([name])


@given(NAMES, NAMES, NAMES, st.booleans(), st.sampled_from([0, 1, 65534]), st.frozensets(st.sampled_from(SHORT)))
def test_no_set_exceeds_another(
    add: list[str], drop: list[str], ambient: list[str], privileged: bool, uid: int, own: frozenset[str]
) -> None:
    bounding = frozenset(f"CAP_{name}" for name in own)
    found = {
        kind: set(names)
        for kind, names in sets(add, drop, ambient, privileged=privileged, bounding=bounding, uid=uid).items()
    }
    assert found["bounding"] <= bounding
    assert found["effective"] == found["permitted"] <= found["bounding"]
    assert found["inheritable"] == found["ambient"] <= found["permitted"]
    if not ambient:
        assert not found["inheritable"]
        assert uid == 0 or not found["effective"]
    if not privileged:
        assert not found["bounding"] & {f"CAP_{name}" for name in drop}


@given(NAMES, NAMES)
def test_order_and_case_do_not_matter(add: list[str], drop: list[str]) -> None:
    full = [name if name == "ALL" else f"CAP_{name}" for name in drop]
    assert sets(add, drop) == sets([name.lower() for name in reversed(add)], full)
