"""What a node says about its network configuration. How it is watched: tests/node/network/test_cni_discovery.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import conflist, discovery, plugins

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


@contextlib.asynccontextmanager
async def watching(directory: Path, programs: plugins.Plugins) -> AsyncIterator[discovery.Discovery]:
    found = discovery.Discovery(str(directory), programs)
    task = asyncio.create_task(found.watch())
    async with asyncio.timeout(10):
        await found.looked.wait()
    assert found.condition() == (True, "", "")
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def named(name: str, type: str = "fake") -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "type": type})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of configurations whose only file is a link to another place."""
    monkeypatch.setattr(discovery, "_STATUS", 0.02)
    monkeypatch.setattr(discovery, "_RETRY", 0.02)
    (tmp_path / "net.d").mkdir()
    (tmp_path / "installed").write_text(named("one"))
    (tmp_path / "net.d/10-link.conf").symlink_to(tmp_path / "installed")
    return tmp_path


async def test_a_change_behind_a_link_is_seen(place: Path, programs: plugins.Plugins) -> None:
    async with watching(place / "net.d", programs) as found:
        (place / "installed").write_text(named("another"))
        await until(lambda: found.usable().name == "another")


async def test_a_plugin_that_goes_and_comes_back_is_seen(place: Path, programs: plugins.Plugins) -> None:
    async with watching(place / "net.d", programs) as found:
        (place / "bin/fake").rename(place / "away")
        await until(lambda: "'fake' is in none of" in found.condition()[2])
        (place / "away").rename(place / "bin/fake")
        await until(lambda: found.condition()[0])


async def test_another_directory_under_the_name_is_watched(
    place: Path, programs: plugins.Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(place / "net.d", programs) as found:
        (place / "net.d").rename(place / "away")
        (place / "net.d").mkdir()
        (place / "net.d/20.conf").write_text(named("second"))
        await until(lambda: found.network is not None and found.network.name == "second")
        monkeypatch.setattr(discovery, "_STATUS", 60)  # from the next wait on only the watch tells
        await asyncio.sleep(0.1)
        (place / "net.d/10.conf").write_text(named("first"))
        await until(lambda: found.usable().name == "first")


async def test_as_long_as_nothing_changes_nothing_is_read(
    place: Path, programs: plugins.Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "net.d/00-broken.conf").write_text("{")
    compared = 0

    class Counted(discovery.Discovery):
        def _signatures(self) -> list[tuple[str, int, int, int]]:
            nonlocal compared
            compared += 1
            return super()._signatures()

    monkeypatch.setattr(discovery, "Discovery", Counted)
    async with watching(place / "net.d", programs):
        await until(lambda: compared > 5)
        reads: list[str] = []
        monkeypatch.setattr(conflist, "read", reads.append)
        started = compared
        await until(lambda: compared > started + 5)
        assert reads == []
