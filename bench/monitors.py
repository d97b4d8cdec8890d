"""The two monitors beside each other, on real containers of crun: `./dev bench monitors`.

What a monitor adds to a container: time to create it, memory as long as it lives, and how fast what it writes reaches
the log. Samples are taken in turn (statistics.py says why).
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import accounting, report, statistics
from ropewalk.linux import orphans
from ropewalk.runtimes.handlers import crun
from tests.fakes.boxes import Box, Place, create

OURS, THEIRS = "ropewalk-monitor", "conmon"
CREATES, RUNS = 100, 9  # pairs
CROWD = 20  # containers of each whose monitors are weighed
REAPED = 0.02  # seconds until the last child has been waited for
TOTAL = 200 << 20  # bytes that a container writes
WRITES = {"log_lines": 100, "log_4k": 4096, "log_64k": 65536}  # bytes with each write; a line has 100

Sample = Callable[[Place, crun.Handler], Awaitable[float]]


async def create_ms(place: Place, handler: crun.Handler) -> float:
    plan = place.plan("sleep", "60")
    before = time.perf_counter()
    box = await create(handler, plan)
    took = time.perf_counter() - before
    await box.kill()
    await box.delete()
    return took * 1000


async def life_cpu_ms(place: Place, handler: crun.Handler) -> float:
    """Processor time of all children, monitor and runtime, from create to delete."""
    before = children_ms()
    await create_ms(place, handler)
    await asyncio.sleep(REAPED)
    return children_ms() - before


def children_ms() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def throughput(size: int) -> Sample:
    """MB/s from the start of a container until all that it wrote is in the log, which is checked."""

    async def sample(place: Place, handler: crun.Handler) -> float:
        box = await create(handler, place.plan("writer", str(size), str(TOTAL)))
        before = time.perf_counter()
        await box.start()
        exit = await box.wait()
        took = time.perf_counter() - before
        assert exit.code == 0
        check(Path(box.plan.log_path))
        os.unlink(box.plan.log_path)
        await box.delete()
        return TOTAL / took / 1e6

    return sample


def check(log: Path) -> None:
    """Every byte is there: content and line ends."""
    seen = 0
    with log.open("rb") as file:
        for line in file:
            _, _, tag, content = line.split(b" ", 3)
            seen += len(content) - (tag == b"P")
    assert seen == TOTAL, f"{TOTAL - seen} bytes are missing"


async def weigh(place: Place, handlers: dict[str, crun.Handler]) -> dict[str, float]:
    """kB of PSS of one monitor: the mean of a crowd, after each has logged a line, all at rest."""
    boxes: dict[str, list[Box]] = {name: [] for name in handlers}
    for _ in range(CROWD):
        for name, handler in handlers.items():
            box = await create(handler, place.plan("sh", "-c", "echo line; sleep 60"))
            await box.start()
            boxes[name].append(box)
    await asyncio.sleep(3)
    found = {
        name: accounting.pss_mb({box.task.monitor_pid for box in some}) * 1000 / CROWD for name, some in boxes.items()
    }
    for box in (box for some in boxes.values() for box in some):
        await box.kill()
        await box.delete()
    return found


def row(name: str, unit: str, ours: list[float], theirs: list[float]) -> list[str]:
    ratio = statistics.ratio(ours, theirs)
    shown = [f"{statistics.median(values).value:.4g} {unit}" for values in (ours, theirs)]
    return [name, *shown, f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"]


async def measure() -> list[list[str]]:
    reaper = orphans.Orphans()
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-", dir="/var/tmp") as directory:
        place = Place(Path(directory))
        writer = os.path.join(place.image, "bin/writer")
        source = Path(__file__).with_name("writer.c")
        subprocess.run(["cc", "-O2", "-static", "-o", writer, str(source)], check=True)
        try:
            handlers = {name: crun.Handler(crun.Config(monitor=name), place.node) for name in (OURS, THEIRS)}
            rows = []
            for name, unit, pairs, sample in (
                ("create", "ms", CREATES, create_ms),
                ("life_cpu", "CPU-ms", CREATES, life_cpu_ms),
                *((name, "MB/s", RUNS, throughput(size)) for name, size in WRITES.items()),
            ):
                samples: dict[str, list[float]] = {OURS: [], THEIRS: []}
                for number in range(pairs):
                    for side in (OURS, THEIRS) if number % 2 else (THEIRS, OURS):
                        samples[side].append(await sample(place, handlers[side]))
                rows.append(row(name, unit, samples[OURS], samples[THEIRS]))
                print("  ".join(rows[-1]), flush=True)
            weights = await weigh(place, handlers)
            rows.append(row("memory", "kB", [weights[OURS]], [weights[THEIRS]]))
        finally:
            await place.close()
            reaper.close()
    return rows


def main() -> int:
    rows = asyncio.run(measure())
    print(report.table([("measure", OURS, THEIRS, "ratio"), *map(tuple, rows)]))
    return 0
