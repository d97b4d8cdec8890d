"""fmt: format the code, and repair what ruff can repair."""

from __future__ import annotations

import subprocess
import sys

from tools import lint


def main() -> int:
    ruff = str(lint.BIN / "ruff")
    fixed = subprocess.run([ruff, "check", "--fix", *lint.sources()], cwd=lint.ROOT, check=False).returncode
    formatted = subprocess.run([ruff, "format", *lint.sources()], cwd=lint.ROOT, check=False).returncode
    return fixed or formatted


if __name__ == "__main__":
    sys.exit(main())
