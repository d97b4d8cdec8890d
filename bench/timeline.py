"""Where the time of a pod goes, from RunPodSandbox to RemovePodSandbox: `./dev bench timeline`.

Every step of the product passes checkpoints (steps.py); here the daemon writes down when. What lies between two of
them, or between one and the call before or after it, is a line; medians of ROUNDS pods, so their sum is not quite the
whole.
`python -m bench.timeline FILE serve ...` is that daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import report
from ropewalk import steps
from ropewalk.client import cri
from ropewalk.spec.image import ImageSpec
from tools import images, node, workload

ROUNDS = 40
SETTLE = 0.15  # seconds between pods: what a removal leaves to the background is not the next pod's
SHOWN = 0.1  # ms; what takes less is added up


class Passage(NamedTuple):
    """A moment: nanoseconds of CLOCK_MONOTONIC, which processes share, and its name."""

    at: int
    name: str


class Node(node.Node):
    """Its daemon writes its passages to `passages`."""

    @property
    def passages(self) -> Path:
        return self.base / "passages"

    def command(self) -> list[str]:
        start, end = super().command(), ["-m", "ropewalk"]
        at = start.index(end[1])
        return [sys.executable, "-m", "bench.timeline", str(self.passages), *start[at + 1 :]]


def read(path: Path) -> list[Passage]:
    """Passages in a file, oldest first."""
    found = (line.split(" ", 1) for line in path.read_text().splitlines())
    return [Passage(int(at), name) for at, name in found]


def spans(passages: list[Passage]) -> Iterator[tuple[str, float]]:
    """Milliseconds before each passage but the first, by its name; a name that comes again has a number."""
    seen: dict[str, int] = defaultdict(int)
    for before, after in itertools.pairwise(passages):
        seen[after.name] += 1
        number = f" ({seen[after.name]})" if seen[after.name] > 1 else ""
        yield f"{after.name}{number}", (after.at - before.at) / 1e6


async def life(client: cri.Client, running: Node) -> list[Passage]:
    """One pod with one container, and the client's side of each call."""
    own: list[Passage] = []

    @contextlib.contextmanager
    def call(name: str) -> Iterator[None]:
        own.append(Passage(time.monotonic_ns(), f"{name} asked"))
        yield
        own.append(Passage(time.monotonic_ns(), f"{name} answered"))

    with call("RunPodSandbox"):
        pod = await workload.run_pod(client, workload.pod_spec(logs=running.logs))
    with call("CreateContainer"):
        id = await pod.create("main", "sleep", "600")
    with call("StartContainer"):
        await client.start(id)
    with call("StopPodSandbox"):
        await client.stop_pod(pod.id)
    with call("RemovePodSandbox"):
        await client.remove_pod(pod.id)
    return own


async def measure() -> None:
    took: dict[str, list[float]] = defaultdict(list)
    with node.serving() as served:
        async with Node(served) as running, running.client() as client:
            await client.pull(ImageSpec(image=images.BUSYBOX))
            await life(client, running)
            await asyncio.sleep(5)  # trials of handlers end
            for _ in range(ROUNDS):
                await asyncio.sleep(SETTLE)
                running.passages.write_text("")
                own = await life(client, running)
                within = [one for one in read(running.passages) if own[0].at <= one.at <= own[-1].at]
                for name, ms in spans(sorted([*own, *within])):
                    took[name].append(ms)
    rows = {name: statistics.median(samples) for name, samples in took.items() if len(samples) > ROUNDS / 2}
    print(report.table([(name, f"{ms:.2f} ms") for name, ms in rows.items() if ms >= SHOWN]))
    small = sum(ms for ms in rows.values() if ms < SHOWN)
    print(f"\nall together {sum(rows.values()):.1f} ms, of which {small:.1f} ms in steps below {SHOWN} ms")


def recorder(path: str) -> Callable[[str], None]:
    """What the daemon's checkpoints call."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def checkpoint(name: str) -> None:
        os.write(file, f"{time.monotonic_ns()} {name}\n".encode())

    return checkpoint


def main() -> int:
    asyncio.run(measure())
    return 0


def serve() -> None:
    """The daemon: argv is FILE, then `serve` and its options."""
    note = recorder(sys.argv[1])

    def checkpoint(name: str) -> None:
        note(name)

    steps.checkpoint = checkpoint
    sys.argv = ["ropewalk", *sys.argv[2:]]
    from ropewalk.__main__ import main as command

    command()


if __name__ == "__main__":
    serve()
