"""lint: formatting, style, types, layers and sizes, all at once; what fails is shown."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SOURCES = ("ropewalk", "tools", "tests", "bench", "hatch_build.py")
MODULE_LINES = 600
FUNCTION_LINES = 80


def sources() -> list[str]:
    """Those of SOURCES that exist and hold Python."""
    return [name for name in SOURCES if (path := ROOT / name).is_file() or any(path.rglob("*.py"))]


def oversized(path: Path) -> Iterator[str]:
    """Complaints about one module: its own length, and that of each function."""
    text = path.read_text()
    lines = text.count("\n")
    name = path.relative_to(ROOT)
    if lines > MODULE_LINES:
        yield f"{name}: {lines} lines, {MODULE_LINES} are allowed; look for the second noun and give it a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES} are allowed"


def check_sizes() -> tuple[bool, str]:
    paths = [ROOT / name for name in sources()]
    modules = sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))
    complaints = [line for file in modules if not file.stem.endswith("_pb2") for line in oversized(file)]
    return not complaints, "\n".join(complaints)


def check(*command: str) -> tuple[bool, str]:
    """A program of .venv/bin: whether it was content, and what it said."""
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def main() -> int:
    start = time.monotonic()
    with ThreadPoolExecutor() as pool:
        checks = {
            "types (mypy --strict)": pool.submit(check, "mypy", *sources()),
            "layers (import-linter)": pool.submit(check, "lint-imports", "--no-cache", "--no-logo"),
            "style (ruff check)": pool.submit(check, "ruff", "check", *sources()),
            "format (ruff format)": pool.submit(check, "ruff", "format", "--check", *sources()),
            f"sizes (modules {MODULE_LINES}, functions {FUNCTION_LINES} lines)": pool.submit(check_sizes),
        }
        failed = 0
        for name, future in checks.items():
            good, said = future.result()
            print(f"{'ok  ' if good else 'FAIL'} {name}", flush=True)
            if not good:
                failed += 1
                print(said, flush=True)
    outcome = f"{failed} of {len(checks)} checks failed" if failed else "clean"
    print(f"lint: {outcome} in {time.monotonic() - start:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
