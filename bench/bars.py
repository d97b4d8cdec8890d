"""What is promised of each measure: one table, against which every report is held."""

from __future__ import annotations

import enum

from msgspec import Struct

from bench.statistics import Estimate


class Of(enum.Enum):
    RATIO = "ratio"  # Ropewalk over containerd with runc and, for pods on a network, the CNI plugins
    VALUE = "value"  # Ropewalk alone


class Bar(Struct, frozen=True):
    limit: float
    of: Of = Of.VALUE
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{'x' if self.of is Of.RATIO else ''}"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


BARS = {
    "pod_start_host": Bar(0.35, Of.RATIO),
    "pod_start_bridge": Bar(0.25, Of.RATIO),
    "pod_start_cni": Bar(0.45, Of.RATIO),
    "pod_start_shim": Bar(0.80, Of.RATIO),
    "cpu_daemon_start": Bar(10.0),
    "cpu_daemon_start_shim": Bar(10.0),
    "cpu_daemon": Bar(10.0),
    "cpu_daemon_shim": Bar(10.0),
    "cpu_life_cycle": Bar(0.35, Of.RATIO),
    "cpu_life_cycle_cni": Bar(0.35, Of.RATIO),
    "exec_sync": Bar(0.4, Of.RATIO),
    "stop_container": Bar(0.4, Of.RATIO),
    "workers10": Bar(3.0, Of.RATIO, at_least=True),
    "memory_idle": Bar(60.0),
    "memory_100": Bar(1.2),
    "start_ready": Bar(0.5),
    "list_containers": Bar(2.0),
    "list_container_stats": Bar(20.0),
    "pull_latency": Bar(2.0),
    "adoption_100": Bar(2.0),
}


def verdict(bar: Bar | None, own: Estimate, ratio: Estimate | None) -> str:
    """`met` or `missed` by the point estimate; `(open)` where the interval contains the limit; "" without a bar."""
    held = own if bar is not None and bar.of is Of.VALUE else ratio
    if bar is None:
        return ""
    if held is None:
        return "not compared"
    word = "met" if bar.holds(held.value) else "MISSED"
    return word if bar.holds(held.low) == bar.holds(held.high) else f"{word} (open)"
