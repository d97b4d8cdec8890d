"""What a node says about its network configuration. How it is watched: tests/node/network/test_cni_discovery.py."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import discovery, plugins

VERSIONS = """#!/bin/sh
echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}'
"""


@pytest.fixture
def programs(tmp_path: Path) -> plugins.Plugins:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/fake").write_text(VERSIONS)
    (tmp_path / "bin/fake").chmod(0o755)
    return plugins.Plugins([str(tmp_path / "bin")], 5.0)


async def looked(directory: Path, programs: plugins.Plugins) -> discovery.Discovery:
    """After the first look."""
    found = discovery.Discovery(str(directory), programs)
    watching = asyncio.create_task(found.watch())
    async with asyncio.timeout(10):
        await found.looked.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return found


async def test_before_the_first_look_the_network_is_not_ready(tmp_path: Path, programs: plugins.Plugins) -> None:
    ready, reason, _ = discovery.Discovery(str(tmp_path), programs).condition()
    assert (ready, reason) == (False, "NetworkPluginNotReady")


async def test_without_a_configuration_the_condition_says_what_to_do(tmp_path: Path, programs: plugins.Plugins) -> None:
    (tmp_path / "net.d").mkdir()
    for directory in (tmp_path / "absent", tmp_path / "net.d"):
        found = await looked(directory, programs)
        assert found.condition()[2].startswith(
            f"Network plugin returns error: cni plugin not initialized: no network config found in {directory}: "
        )
        assert found.condition()[2].endswith('a single node may set network.mode = "bridge"')
        with pytest.raises(RopewalkError, match="cni plugin not initialized: no network config found") as caught:
            found.usable()
        assert (caught.value.kind, "network.mode" in caught.value.hint) == (Kind.UNAVAILABLE, True)
        assert json.loads(found.info(["/opt/cni/bin"], "eth0")["cniconfig"])["Networks"] == []


async def test_the_first_usable_file_is_the_network_and_the_others_are_said(
    tmp_path: Path, programs: plugins.Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "10-broken.conf").write_text("{")
    (tmp_path / "20-absent.conf").write_text('{"cniVersion": "1.0.0", "name": "a", "type": "absent"}')
    (tmp_path / "30-new.conf").write_text('{"cniVersion": "1.1.0", "name": "a", "type": "fake"}')  # it speaks 1.0.0
    (tmp_path / "40-good.json").write_text('{"cniVersion": "1.0.0", "name": "good", "type": "fake"}')
    (tmp_path / "50-also.conf").write_text('{"cniVersion": "1.0.0", "name": "also", "type": "fake"}')
    found = await looked(tmp_path, programs)
    assert found.condition() == (True, "", "")
    assert found.usable().name == "good"
    said = [record.__dict__["file"] for record in caplog.records if "is skipped" in record.message]
    assert said == [str(tmp_path / name) for name in ("10-broken.conf", "20-absent.conf", "30-new.conf")]
    (network,) = json.loads(found.info([], "eth0")["cniconfig"])["Networks"]
    assert network["Config"]["Name"] == "good"
