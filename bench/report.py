"""Outcomes as a table and as JSON, with where and when they were taken."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import bars, cni
from bench.accounting import program_version
from bench.runner import Outcome
from bench.side import Side
from bench.statistics import Estimate
from ropewalk.runtimes.monitors import own

HEADS = ("measure", "unit", "ropewalk", "peer", "ratio", "p", "bar", "verdict", "client")


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def row(outcome: Outcome) -> tuple[str, ...]:
    """One line of the table, by HEADS."""
    own, *peers = outcome.samples
    bar = bars.BARS.get(outcome.name)
    p = outcome.p
    return (
        outcome.name,
        outcome.unit,
        interval(outcome.estimate(own)),
        interval(outcome.estimate(peers[0])) if peers else "-",
        interval(outcome.ratio),
        "-" if p is None else f"{p:.4f}",
        str(bar or "-"),
        bars.verdict(bar, outcome.estimate(own), outcome.ratio) or "-",
        " / ".join(f"{share:.0%}" for share in outcome.client.values()) if any(outcome.client.values()) else "-",
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def text(outcomes: Sequence[Outcome]) -> str:
    return table([HEADS, *map(row, outcomes)])


def provenance(sides: Sequence[Side]) -> dict[str, str]:
    """Where it was measured, and what."""
    models = {
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    }
    memory = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    version = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kernel": f"{platform.release()}, cgroup v{2 if version else 1}",
        "processor": f"{os.cpu_count()} x {', '.join(sorted(models))}, {int(memory) / 1e6:.0f} GB",
        "python": platform.python_version(),
        "crun": program_version("crun", "--version"),
        "monitor": program_version(own.SHIPPED, "--version"),
        **{side.name: side.version() for side in sides},
    }
    found["ropewalk"] += f" ({commit.stdout.strip() or 'no commit'})"
    if len(sides) > 1:
        found["runc"] = program_version("runc", "--version")
        found["CNI"] = program_version(shutil.which("bridge", path=cni.directory()) or "", "--version")
    return found


def document(outcomes: Sequence[Outcome], where: dict[str, str], load: dict[str, float]) -> bytes:
    """JSON: provenance, and per measure the samples and what follows from them."""
    measures: list[dict[str, Any]] = [
        {
            **msgspec.to_builtins(outcome),
            "medians": {name: outcome.estimate(name) for name in outcome.samples},
            "ratio": outcome.ratio,
            "p": outcome.p,
            "bar": str(bars.BARS.get(outcome.name) or ""),
            "verdict": row(outcome)[7],
        }
        for outcome in outcomes
    ]
    return msgspec.json.format(msgspec.json.encode({"where": where, "load": load, "measures": measures}), indent=1)
