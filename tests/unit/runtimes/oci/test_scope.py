from __future__ import annotations

from typing import Any

import pytest

from ropewalk.runtimes.oci import scope

ID = "0a" * 32
PATH = f"/kubepods.slice/kubepods-pod1.slice/ropewalk-{ID}.scope"


def spec(**memory: int) -> dict[str, Any]:
    linux = {"cgroupsPath": PATH, "resources": {"memory": memory, "pids": {"limit": 5}}}
    return {"ociVersion": "1.0.2", "annotations": {"a": "b"}, "linux": linux}


def test_any_other_cgroup_changes_nothing() -> None:
    path = f"/kubepods/pod1/{ID}"
    assert scope.place(spec(limit=5), path) == spec(limit=5)
    assert scope.flags(path) == []


def test_a_scope() -> None:
    placed = scope.place(spec(), PATH)
    assert placed["linux"]["cgroupsPath"] == f"kubepods-pod1.slice:ropewalk:{ID}"
    assert placed["annotations"] == {
        "a": "b",
        "run.oci.systemd.subgroup": "",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
    }
    assert placed["linux"]["resources"] == spec()["linux"]["resources"]
    assert scope.flags(PATH) == ["--systemd-cgroup"]


@pytest.mark.parametrize(
    ("memory", "value"),
    [
        ({"limit": 64, "swap": 64}, "uint64 0"),
        ({"limit": 64, "swap": 96}, "uint64 32"),
        ({"limit": 64}, None),
        ({"limit": 64, "swap": -1}, None),
        ({"limit": -1, "swap": -1}, None),
    ],
)
def test_systemd_knows_the_swap_limit(memory: dict[str, int], value: str | None) -> None:
    annotations = scope.place(spec(**memory), PATH)["annotations"]
    assert annotations.get("org.systemd.property.MemorySwapMax") == value


def test_no_memory_at_all() -> None:
    bare = {"linux": {"cgroupsPath": PATH}}
    assert scope.place(bare, PATH)["linux"] == {"cgroupsPath": f"kubepods-pod1.slice:ropewalk:{ID}"}
