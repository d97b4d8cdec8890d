"""bench: Ropewalk beside the containerd on PATH: pod starts, processor time, memory, latencies, as ratios.

    ./dev bench [NAME...] [--against containerd|nothing] [--pairs N] [--quick] [--json FILE] [--list]
    ./dev bench monitors        ropewalk-monitor beside conmon, on crun alone
    ./dev bench gvisor          a pod on runsc beside runsc by hand; what 200 pods leave
    ./dev bench timeline        where the time of a pod goes, step by step

Both run privately, each in a cgroup of its own, with the same client, images, seccomp and capabilities (compared before
anything is timed), and take turns. Without a containerd on PATH it says so and measures Ropewalk alone. Figures of a
machine that does other things meanwhile are good as ratios; how much it did is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import sys
import time
from pathlib import Path

from bench import accounting, bars, cni, containerd, gvisor, images, likeness, monitors, report, runner, timeline
from bench.measures import MEASURES, Measure
from bench.side import Ropewalk, Side, prepare
from tools import images as test_images
from tools import registry

QUICK = 5  # pairs at most


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help="measures; all if none is named")
    parser.add_argument("--against", choices=("containerd", "nothing"), default="containerd")
    parser.add_argument("--pairs", type=int, default=0, help="samples of each side; each measure has its own default")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} pairs")
    parser.add_argument("--json", metavar="FILE", help="write samples and figures there")
    parser.add_argument("--list", action="store_true", help="say what there is to measure")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in MEASURES]:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return given


class Load:
    """What else the machine did: its processor time less that of both sides, this process and its children."""

    def __init__(self, sides: list[Side]) -> None:
        self._sides = sides
        self._before = self._reading()

    def _reading(self) -> tuple[float, float, float]:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return (
            time.monotonic(),
            accounting.busy_seconds(),
            own + sum(side.group.cpu_ms() for side in self._sides) / 1000,
        )

    def others(self) -> float:
        """Processors that were busy for others, on average."""
        at, busy, ours = (after - before for after, before in zip(self._reading(), self._before, strict=True))
        return max(0.0, busy - ours) / at


def check_likeness(sides: list[Side]) -> None:
    """Raises SystemExit if the two do not do like work."""
    if len(sides) < 2:
        return
    ours, theirs = (likeness.observe(side) for side in sides)
    for network in ours:
        differences, notes = likeness.compare(ours[network], theirs[network])
        if differences:
            text = "\n  ".join(differences)
            raise SystemExit(f"not comparable ({network} network; {sides[0].name} and {sides[1].name}):\n  {text}")
        print(f"like work ({network} network): seccomp, capabilities, namespaces, paths agree; {'; '.join(notes)}")


def measure(chosen: list[Measure], given: argparse.Namespace, against: bool) -> list[runner.Outcome]:
    with contextlib.ExitStack() as stack:
        made = test_images.ensure()
        served = stack.enter_context(registry.Registry(made.program, seed=made.storage))
        images.push(served, big=any(measure.name == "pull_latency" for measure in chosen))
        sides: list[Side] = []
        for make in (Ropewalk, containerd.Containerd) if against else (Ropewalk,):
            sides.append(make(served))
            stack.callback(sides[-1].close)
        for side in sides:
            prepare(side)
        where = report.provenance(sides)
        print(report.table(list(where.items())))
        check_likeness(sides)
        load, before = Load(sides), os.getloadavg()[0]
        print(flush=True)
        outcomes = runner.run(chosen, sides, given.pairs, lambda done: print("  ".join(report.row(done)), flush=True))
        pressure = {"load_before": before, "load_after": os.getloadavg()[0], "others_cpus": load.others()}
        if given.json:
            Path(os.environ.get("DEV_CWD", "."), given.json).write_bytes(report.document(outcomes, where, pressure))
    print(f"\n{report.text(outcomes)}\n")
    print(
        f"load average {pressure['load_before']:.1f} before, {pressure['load_after']:.1f} after; others used "
        f"{pressure['others_cpus']:.2f} of {os.cpu_count()} processors. Medians with 95% intervals; client: the "
        "measuring client's own processor time per time under the clock."
    )
    return outcomes


def main() -> int:
    if sys.argv[1:] == ["monitors"]:
        return monitors.main()
    if sys.argv[1:] == ["gvisor"]:
        return gvisor.main()
    if sys.argv[1:] == ["timeline"]:
        return timeline.main()
    given = arguments()
    if given.list:
        print(report.table([(m.name, m.unit, str(bars.BARS.get(m.name) or "-"), m.text) for m in MEASURES.values()]))
        return 0
    chosen = [MEASURES[name] for name in dict.fromkeys(given.names)] or list(MEASURES.values())
    if given.quick:
        import msgspec

        chosen = [msgspec.structs.replace(measure, pairs=min(measure.pairs, QUICK)) for measure in chosen]
    reason = containerd.missing() if given.against == "containerd" else "not asked for"
    if reason:
        print(f"containerd is not measured: {reason}; Ropewalk alone, without ratios")
    if cni.missing() and any(measure.network == "cni" for measure in chosen):
        print(f"measures of a CNI network are left out: {cni.missing()}")
        chosen = [measure for measure in chosen if measure.network != "cni"]
    if shutil.which("containerd-shim-runc-v2") is None and any("shim" in measure.name for measure in chosen):
        print("measures of the shim are left out: no containerd-shim-runc-v2 on PATH")
        chosen = [measure for measure in chosen if "shim" not in measure.name]
    measure(chosen, given, against=not reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())
