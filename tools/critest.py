"""critest: Kubernetes' own CRI test suite on a private node, compared by name with what is expected of each spec.

    ./dev critest [--handler NAME] [--critest PATH] [--output DIRECTORY] [-- GINKGO ARGUMENT...]

It runs the `critest` on PATH, or the one given, and fails if a spec does worse than tests/interop/critest.toml says.
`--output` keeps ginkgo's report.json and the daemon's log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools import lint, node, registry
from tools.conformance import expectation, images

EXPECTED = lint.ROOT / "tests/interop/critest.toml"
HOST_PORTS = range(12000, 12004)  # of the node, which the networking and streaming specs take
SEGMENT = "1048576"  # bytes: `ipcmk -M` of the HostIpc specs, which nobody removes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev critest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--handler", default="", help="runtime handler of every pod (default: the node's own)")
    parser.add_argument("--critest", default="critest", metavar="PATH", help="the program (default: the one on PATH)")
    parser.add_argument("--output", type=Path, metavar="DIRECTORY", help="keep report.json and daemon.log there")
    parser.add_argument("ginkgo", nargs="*", help="after --: handed to critest, such as -ginkgo.focus=Networking")
    return parser.parse_args()


def program_path(given: str) -> str:
    """Of a name on PATH, or of a path that is relative to where ./dev was called; "" if there is none."""
    return shutil.which(Path(called_from(), given) if "/" in given else given) or ""


def called_from() -> str:
    return os.environ.get("DEV_CWD", ".")


def busy_ports() -> list[int]:
    """Of HOST_PORTS, those that something on this machine listens on."""
    busy = []
    for port in HOST_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                busy.append(port)
    return busy


def segments() -> dict[str, str]:
    """Shared memory segments of the node (proc(5), /proc/sysvipc/shm): id → "size attached"."""
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return {row[1]: f"{row[3]} {row[6]}" for row in rows}


@contextlib.contextmanager
def without_segments() -> Iterator[None]:
    """Removes what the HostIpc specs leave: new segments of their size that nobody has attached."""
    before = segments()
    try:
        yield
    finally:
        for id, state in segments().items():
            if id not in before and state == f"{SEGMENT} 0":
                subprocess.run(["ipcrm", "-m", id], check=False)


async def run_critest(program: str, running: node.Node, handler: str, ginkgo: list[str]) -> Path:
    """The path of ginkgo's report, which is absent if critest could not run its specs."""
    report = running.base / "report.json"
    temporary = running.base / "t"
    temporary.mkdir()
    (running.base / "crictl.yaml").write_text("")
    command = [
        program,
        f"-config={running.base / 'crictl.yaml'}",
        f"-runtime-endpoint=unix://{running.address}",
        *([f"-runtime-handler={handler}"] if handler else []),
        f"-ginkgo.json-report={report}",
        "-ginkgo.succinct",
        "-ginkgo.silence-skips",
        *([] if sys.stdout.isatty() else ["-ginkgo.no-color"]),
        *ginkgo,
    ]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=called_from())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal sends it to critest, too
    loop.add_signal_handler(signal.SIGTERM, process.terminate)  # afterwards the node is removed as always
    await process.wait()
    return report


def keep(directory: Path, *files: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.exists():
            shutil.copy(file, directory / file.name)


async def run(
    arguments: argparse.Namespace, program: str, expected: Mapping[str, expectation.Result]
) -> dict[str, expectation.Result]:
    """Results by name; empty if critest did not get to its specs. A run without ginkgo's arguments is one of all that
    are expected."""
    required = frozenset() if arguments.ginkgo else expected.keys()
    made = images.ensure()
    with registry.Registry(made.program, seed=made.storage) as served, without_segments():
        async with node.Node(served) as running:
            report = await run_critest(program, running, arguments.handler, arguments.ginkgo)
            if arguments.output is not None:
                keep(called_from() / arguments.output, report, running.log_file)
            return expectation.read_report(report, required) if report.exists() else {}


def show(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}:", *lines, sep="\n  ", flush=True)


def conclude(expected: Mapping[str, expectation.Result], seen: Mapping[str, expectation.Result], *, whole: bool) -> int:
    """Print how the run compares; the exit code."""
    compared = expectation.compare(expected, seen)
    show("better than expected", compared.better)
    show(f"not in {EXPECTED.relative_to(lint.ROOT)}", compared.unknown)
    show("expected, but this critest does not have them", compared.absent if whole else [])
    show("worse than expected", compared.worse)
    counted = Counter(result.outcome for result in seen.values())
    failures = counted[expectation.FAIL]
    known = sum(result.outcome == expectation.FAIL for name, result in expected.items() if name in seen)
    print(
        f"\ncritest: {counted[expectation.PASS]} passed, {failures} failed ({known} expected to), "
        f"{counted[expectation.SKIP]} skipped; {len(compared.worse)} worse than expected",
        flush=True,
    )
    return 1 if compared.worse else 0


def main() -> int:
    arguments = parse_arguments()
    program = program_path(arguments.critest)
    if not program:
        print(
            f"no program {arguments.critest!r}. critest is in the releases of kubernetes-sigs/cri-tools: put it on "
            "PATH, or name it with --critest",
            file=sys.stderr,
        )
        return 2
    if busy := busy_ports():
        print(f"critest takes host ports that are in use here: {', '.join(map(str, busy))}", file=sys.stderr)
        return 2
    expected = expectation.read_expected(EXPECTED, arguments.handler or "crun")
    seen = asyncio.run(run(arguments, program, expected))
    if not seen:
        print("critest ran no spec", file=sys.stderr)
        return 2
    return conclude(expected, seen, whole=not arguments.ginkgo)


if __name__ == "__main__":
    sys.exit(main())
