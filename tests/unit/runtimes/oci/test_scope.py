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
        "org.systemd.property.TasksMax": "uint64 5",
    }
    assert placed["linux"]["resources"] == spec()["linux"]["resources"]
    assert scope.flags(PATH) == ["--systemd-cgroup"]


def test_a_weight_is_not_said_twice() -> None:
    resources = {"cpu": {"shares": 512, "quota": 7}, "unified": {"cpu.weight": "59"}}
    placed = scope.place({"linux": {"cgroupsPath": PATH, "resources": resources}}, PATH)
    assert placed["linux"]["resources"] == {"cpu": {"quota": 7}, "unified": {"cpu.weight": "59"}}
    assert placed["annotations"]["org.systemd.property.CPUWeight"] == "uint64 59"


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({"memory": {"limit": 64, "swap": 64}}, {"MemoryMax": 64, "MemorySwapMax": 0}),
        ({"memory": {"limit": 64, "swap": 96}}, {"MemoryMax": 64, "MemorySwapMax": 32}),
        ({"memory": {"limit": 64}}, {"MemoryMax": 64}),
        ({"memory": {"limit": 64, "swap": -1}}, {"MemoryMax": 64}),
        ({"memory": {"limit": -1, "swap": -1}}, {}),
        (
            {"cpu": {"shares": 1024, "quota": 50000, "period": 200000}},
            {"CPUWeight": 100, "CPUQuotaPerSecUSec": 250_000, "CPUQuotaPeriodUSec": 200_000},
        ),
        ({"cpu": {"quota": 150_000}}, {"CPUQuotaPerSecUSec": 1_500_000}),
        ({"cpu": {"quota": -1}}, {}),
        ({"pids": {"limit": 5}}, {"TasksMax": 5}),
        ({"pids": {"limit": -1}}, {}),
        (
            {"unified": {"memory.high": "99", "memory.low": "max", "pids.max": "7", "io.weight": "5"}},
            {"MemoryHigh": 99, "TasksMax": 7},
        ),
    ],
)
def test_systemd_knows_the_limits(resources: dict[str, Any], limits: dict[str, int]) -> None:
    assert scope.limits(resources) == limits
    annotations = scope.place({"linux": {"cgroupsPath": PATH, "resources": resources}}, PATH)["annotations"]
    given = {name: value for name, value in annotations.items() if value.startswith("uint64 ")}
    assert given == {f"org.systemd.property.{name}": f"uint64 {value}" for name, value in limits.items()}


def test_no_memory_at_all() -> None:
    bare = {"linux": {"cgroupsPath": PATH}}
    assert scope.place(bare, PATH)["linux"] == {"cgroupsPath": f"kubepods-pod1.slice:ropewalk:{ID}"}
