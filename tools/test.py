"""test: lint, then unit, contract and node tests; PATH... runs only those tests, --vm those of the lab VM.

The last line sums everything up as pytest would. Node tests need root and what ./dev sets up; each works in private
nodes, and whatever one leaves on the machine fails the run. `--vm`: Ropewalk as a user installs it, on systemd and
cgroup v2 (tests/vm), then the ordinary suites there (tools/lab/suites.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tools import images, lint, node, trace
from tools.lab import suites

TIERS = ("unit", "contract", "node")
LIMIT = 40 * 60  # seconds for one tier; a test's own limit is in pyproject.toml
NO_TESTS = 5  # pytest's exit code when it collected nothing


class Outcome(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    errors: int = 0

    def __add__(self, other: object) -> Outcome:
        assert isinstance(other, Outcome)
        return Outcome(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def read_outcome(report: Path) -> Outcome:
    """What a JUnit report counts."""
    suite = ElementTree.parse(report).getroot()
    cases = list(suite.iter("testcase"))
    failed, errors, skipped = (
        sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")
    )
    return Outcome(len(cases) - failed - errors - skipped, failed, skipped, errors)


def run_pytest(*arguments: str) -> Outcome:
    """One run of pytest; its own closing line is left out, failures and their logs are shown."""
    with tempfile.TemporaryDirectory(prefix="rw-", dir="/var/tmp") as directory:
        report = Path(directory) / "report.xml"
        own = (f"--junit-xml={report}", f"--basetemp={directory}/t")  # short: a socket's path has 107 bytes
        command = [sys.executable, "-m", "pytest", "-q", *own, *arguments]
        try:
            code = subprocess.run(command, cwd=lint.ROOT, check=False, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            print(f"pytest {' '.join(arguments)} did not end within {LIMIT} s", flush=True)
            return Outcome(errors=1)
        outcome = read_outcome(report) if report.exists() else Outcome()
        if code not in (0, 1, NO_TESTS) or (code == 1 and not outcome.failed + outcome.errors):
            outcome += Outcome(errors=1)
        return outcome


def run_tier(tier: str) -> Outcome:
    """Unit tests share nothing; a file of node or contract tests shares one private node, so it stays on one worker."""
    directory = lint.ROOT / "tests" / tier
    if not any(directory.rglob("test_*.py")):
        return Outcome()
    print(f"== {tier} tests", flush=True)
    workers = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "worksteal" if tier == "unit" else "loadfile")
    return run_pytest(*workers, str(directory))


def run_in_vm(directory: Path) -> Outcome:
    """Two VMs side by side: one with Ropewalk installed, and one with the working tree. A suite that did not come to
    its end is an error."""
    print(f"== Ropewalk installed in the lab VM; in a second one: {', '.join(suites.SUITES)} tests", flush=True)
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(suites.run, directory)
        outcome = run_pytest("tests/vm", "-p", "no:cacheprovider", "-v")
        reports = beside.result()
    outcome += Outcome(errors=len(suites.SUITES) - len(reports))
    for report in reports:
        outcome += read_outcome(report)
    return outcome


def closing_line(outcome: Outcome, seconds: float) -> str:
    words = zip(outcome, ("passed", "failed", "skipped", "errors"), strict=True)
    counted = ", ".join(f"{count} {word}" for count, word in words if count or word in ("passed", "failed"))
    return f"{f' {counted} in {seconds:.2f}s ':=^100}"


def leftovers(before: set[str], ledger: Path) -> list[str]:
    """What the tests left on the machine: of their nodes, which the ledger names, and under names for tests."""
    marks = ledger.read_text().splitlines() if ledger.exists() else []
    names = trace.run_names()
    return trace.added(before, names, names.replace("-", "_"), *marks)


def main() -> int:
    start = time.monotonic()
    images.ensure()
    with tempfile.TemporaryDirectory(prefix="ropewalk-dev-", dir="/var/tmp") as directory:
        ledger = Path(directory) / "nodes"
        os.environ[node.LEDGER] = str(ledger)
        os.environ[trace.RUN] = str(os.getpid())
        before = trace.snapshot()
        outcome = Outcome()
        if sys.argv[1:] == ["--vm"]:
            outcome += run_in_vm(Path(directory))
        elif arguments := sys.argv[1:]:
            outcome += run_pytest(*arguments)
        else:
            outcome += Outcome(failed=1) if lint.main() else Outcome(passed=1)
            for tier in TIERS:
                outcome += run_tier(tier)
        if left := leftovers(before, ledger):
            print("left on the machine:", *left, sep="\n  ", flush=True)
            outcome += Outcome(failed=1)
    print(closing_line(outcome, time.monotonic() - start), flush=True)
    return 1 if outcome.failed or outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
