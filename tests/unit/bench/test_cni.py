"""The CNI configuration that both sides get."""

from __future__ import annotations

import json
from pathlib import Path

from bench import cni


def test_the_network_has_its_own_names() -> None:
    read = json.loads(cni.network("bench-1", "ropewalk-c0001", "10.201.0.0/22", "/d"))
    bridge, ports = read["plugins"]
    assert (bridge["type"], bridge["bridge"], bridge["ipam"]["dataDir"]) == ("bridge", "ropewalk-c0001", "/d")
    assert len(bridge["bridge"]) <= 15  # IFNAMSIZ
    assert ports["type"] == "portmap"


def test_two_sides_do_not_meet(tmp_path: Path) -> None:
    read = []
    for tag in ("0001", "ff02"):
        (tmp_path / tag).mkdir()
        (file,) = cni.write(tmp_path / tag, tag).iterdir()
        read.append(json.loads(file.read_text()))
    names, (first, second) = [each["name"] for each in read], [each["plugins"][0] for each in read]
    assert len(set(names)) == 2
    assert first["bridge"] != second["bridge"]
    assert first["ipam"]["ranges"] != second["ipam"]["ranges"]
    assert first["ipam"]["dataDir"] != second["ipam"]["dataDir"]
