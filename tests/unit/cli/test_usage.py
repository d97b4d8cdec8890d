"""CPU from two looks, limits from what is left, and endpoints that do not tell all."""

from __future__ import annotations

from ropewalk.cli import usage
from ropewalk.client import values
from ropewalk.spec.container import ContainerMetadata

SECOND = 1_000_000_000


def cpu(at: float, seconds: float | None, rate: int | None = None) -> values.CpuUsage:
    used = None if seconds is None else int(seconds * SECOND)
    return values.CpuUsage(timestamp=int(at * SECOND), usage_core_nano_seconds=used, usage_nano_cores=rate)


def test_cpu() -> None:
    assert usage.cpu(cpu(10, 1), cpu(12, 2)) == 0.5
    assert usage.cpu(cpu(10, 1), cpu(10, 1, SECOND // 4)) == 0.25  # the endpoint's own figure: it caches
    assert usage.cpu(None, cpu(12, 2, SECOND // 4)) == 0.25
    assert usage.cpu(cpu(10, 5), cpu(12, 1)) is None  # restarted
    assert usage.cpu(cpu(10, 5), None) is None


def test_limit() -> None:
    assert usage.limit(values.MemoryUsage(working_set_bytes=30, available_bytes=70)) == 100
    assert usage.limit(values.MemoryUsage(working_set_bytes=30, available_bytes=0)) is None
    assert usage.limit(values.MemoryUsage(available_bytes=70)) is None


def look(seconds: float) -> usage.Look:
    containers = {
        id: values.Container(id=id, pod_sandbox_id="p", metadata=ContainerMetadata(id))
        for id in ("idle", "busy", "new")
    }
    stats = {
        "idle": values.ContainerStats(cpu=cpu(seconds, 1)),
        "busy": values.ContainerStats(cpu=cpu(seconds, seconds)),
    }
    return usage.Look(containers, {}, stats, {})


def test_the_busiest_first_and_none_for_what_is_unknown() -> None:
    rows = usage.used(look(1), look(2))
    assert [(row.id, row.cpu) for row in rows] == [("busy", 1.0), ("idle", 0.0), ("new", None)]
    assert (rows[0].received, rows[0].processes, rows[0].memory) == (None, None, None)
    assert look(1).rates_missing
