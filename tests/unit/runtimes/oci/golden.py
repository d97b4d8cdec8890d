"""Compares a built spec with tests/golden/oci/<name>.json; `UPDATE_GOLDEN=1` writes the file instead."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

DIRECTORY = pathlib.Path(__file__).parents[3] / "golden" / "oci"


def check(name: str, spec: dict[str, Any]) -> None:
    text = json.dumps(spec, indent=1, ensure_ascii=True) + "\n"
    path = DIRECTORY / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.exists(), f"{path.name} is missing: run UPDATE_GOLDEN=1 pytest, and read what it wrote"
    assert json.loads(path.read_text()) == json.loads(text), f"differs from {path.name}: UPDATE_GOLDEN=1 shows how"
