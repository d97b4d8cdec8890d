"""What is kept of attachments."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ropewalk import ids
from ropewalk.network import cache, conflist

NETWORK = conflist.Network("lab", "1.0.0", ["1.0.0"], [{"type": "bridge", "mtu": 1400}])


def entry(id: str, *, result: bytes = b"") -> cache.Entry:
    capabilities = {"portMappings": [{"hostPort": 1}]}
    kept = msgspec.json.decode(result) if result else None
    return cache.Entry(id, "eth0", "/run/netns/x", NETWORK, "A=1", capabilities, kept)


def test_an_attachment_is_kept_until_it_is_removed(tmp_path: Path) -> None:
    kept = cache.Cache(str(tmp_path / "cni"))
    id = ids.new_id()
    assert kept.read(id, "eth0") is None
    assert list(kept.list()) == []
    kept.write(entry(id))
    begun = kept.read(id, "eth0")
    assert begun is not None
    assert begun.previous == b""
    kept.write(entry(id, result=b'{"ips": []}'))
    done = cache.Cache(str(tmp_path / "cni")).read(id, "eth0")
    assert done is not None
    assert (done.network, done.capabilities, json.loads(done.previous)) == (
        NETWORK,
        {"portMappings": [{"hostPort": 1}]},
        {"ips": []},
    )
    assert [each.container_id for each in kept.list()] == [id]
    for _ in range(2):
        kept.remove(id, "eth0")
    assert list(kept.list()) == []


def test_a_damaged_file_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = cache.Cache(str(tmp_path))
    id = ids.new_id()
    (tmp_path / f"{id}-eth0.json").write_text("{")
    assert kept.read(id, "eth0") is None
    assert list(kept.list()) == []
    (tmp_path / f"{id}-eth1.json").mkdir()
    kept.write(entry(other := ids.new_id()))
    assert [each.container_id for each in kept.list()] == [other]
    assert "cannot read" in caplog.text
    assert any("Is a directory" in record.__dict__["error"] for record in caplog.records)


def test_the_pod_cidr_is_kept(tmp_path: Path) -> None:
    kept = cache.Cache(str(tmp_path / "cni"))
    assert kept.read_pod_cidr() == ""
    kept.write_pod_cidr("10.1.0.0/24")
    assert cache.Cache(str(tmp_path / "cni")).read_pod_cidr() == "10.1.0.0/24"
    assert list(kept.list()) == []


def test_attachments_of_runtimes_beside_us(tmp_path: Path) -> None:
    document = {"kind": "cniCacheV1", "containerId": "theirs", "ifName": "eth0", "networkName": "lab", "config": "e30="}
    (tmp_path / "lab-theirs-eth0").write_text(json.dumps(document))
    (tmp_path / "other").write_text(json.dumps(document | {"networkName": "other"}))
    (tmp_path / "damaged").write_text("{")
    (tmp_path / "not-text").write_bytes(b'{"containerId": "\xff"}')
    assert cache.foreign("lab", str(tmp_path)) == [{"containerID": "theirs", "ifname": "eth0"}]
    assert cache.foreign("lab", str(tmp_path / "absent")) == []


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path) -> None:
    kept = cache.Cache(str(tmp_path / "cni"))
    kept.sweep()
    id = ids.new_id()
    kept.write(entry(id))
    (tmp_path / f"cni/{id}-eth0.json.01234567.tmp").touch()
    kept.sweep()
    assert [path.name for path in (tmp_path / "cni").iterdir()] == [f"{id}-eth0.json"]
