"""hatch's build hook: Python code for the messages in proto/, made with every wheel, sdist and editable install; and
manual pages and shell completions, which every wheel brings below share/.

Run as a program it makes the code in the tree. No *_pb2_grpc modules: ropewalk/wire/grpc.py builds its handlers and
stubs from the service descriptors.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGE = "ropewalk/wire/pb"
SHARE = "build/share"


def generate(root: Path) -> None:
    """proto/*.proto under `root` → ropewalk/wire/pb/*_pb2.py and .pyi. The first --proto_path gives the files the name
    under which they are imported."""
    from grpc_tools import protoc  # a build requirement; not there when hatch only reads this file

    sources = [f"{PACKAGE}/{path.name}" for path in sorted((root / "proto").glob("*.proto"))]
    arguments = [f"--proto_path={PACKAGE}={root / 'proto'}", f"--python_out={root}", f"--pyi_out={root}"]
    if protoc.main(["protoc", *arguments, *sources]) != 0:
        raise SystemExit(f"protoc refused {', '.join(sources)}")


def document(root: Path) -> None:
    """Manual pages and completions of the code in `root` → SHARE. In a process of its own: it imports that code."""
    subprocess.run([sys.executable, "-m", "tools.docs", SHARE], cwd=root, check=True)


if __name__ == "__main__":
    generate(Path(__file__).parent)
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class GenerateMessages(BuildHookInterface[Any]):
        """hatch calls `initialize` before it collects files."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            generate(Path(self.root))
            if self.target_name == "wheel" and version != "editable":
                document(Path(self.root))
                build_data["shared_data"][SHARE] = "share"
