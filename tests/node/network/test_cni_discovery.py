"""Which configuration is the network, and whether it is ready."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import cni, discovery
from tests.node.network.lab import run
from tests.node.network.plugins import REAL, Net, named

Until = Callable[..., Any]


async def test_without_a_configuration_the_network_is_not_ready_until_there_is_one(net: Net, until: Until) -> None:
    net.conf.rmdir()
    daemon = await net.start(ready=False)
    ready, reason, message = daemon.condition()
    assert (ready, reason) == (False, "NetworkPluginNotReady")
    assert f"cni plugin not initialized: no network config found in {net.conf}: No such file" in message
    assert 'network.mode = "bridge"' in message
    with pytest.raises(RopewalkError, match="cni plugin not initialized") as caught:
        daemon.plan(ids.new_id(), named("web"))
    assert caught.value.kind is Kind.UNAVAILABLE

    net.conf.mkdir()
    await until(lambda: "no file ends in" in daemon.condition()[2])
    path = net.write({"type": "fake"})
    await until(lambda: "'fake' is in none of" in daemon.condition()[2])
    net.fake("fake")
    await until(lambda: daemon.condition() == (True, "", ""))
    path.write_text("{")
    await until(lambda: "no network configuration" in daemon.condition()[2])
    net.write({"type": "fake"})
    await until(lambda: daemon.condition()[0])
    path.unlink()
    await until(lambda: not daemon.condition()[0])


async def test_the_first_usable_file_by_name_is_taken_as_soon_as_it_is_there(net: Net, until: Until) -> None:
    net.fake("fake")
    net.write({"type": "fake"}, name="last", file="30-last.conflist")
    net.write({"type": "absent"}, name="unusable", file="10-unusable.conflist")
    (net.conf / "05-broken.conf").write_text("{")
    daemon = await net.start()
    assert daemon._discovery.network is not None
    assert daemon._discovery.network.name == "last"
    net.write(name="first", file="20-first.conf", type="fake", plugins=None)
    await until(lambda: daemon._discovery.network is not None and daemon._discovery.network.name == "first")
    id, attachment = await net.pod(daemon)
    (net.conf / "20-first.conf").unlink()
    await until(lambda: daemon._discovery.network is not None and daemon._discovery.network.name == "last")
    await daemon.detach(id, attachment)
    assert {call.document["name"] for call in net.calls("ADD", "DEL")} == {"first"}


async def test_a_file_that_is_skipped_is_said_once_until_it_changes(
    net: Net, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [f"{r.__dict__['file']}: {r.__dict__['reason']}" for r in caplog.records if "is skipped" in r.message]

    net.fake("fake")
    os.mkfifo(net.conf / "00-pipe.conf")  # reading it would take for ever
    (net.conf / "05-broken.conf").write_text("{")
    net.write({"type": "fake"})
    await net.start()
    assert [line.partition(": ")[0].rpartition("/")[2] for line in said()] == ["00-pipe.conf", "05-broken.conf"]
    assert "is no regular file" in said()[0]
    (net.conf / "99-later.conf").write_text("")  # another look, the same two
    net.write(name="x", file="05-broken.conf", type="absent", plugins=None)
    await until(lambda: len(said()) == 3)
    assert "the CNI plugin 'absent' is in none of" in said()[2]


async def test_plugins_beside_a_list_are_added_to_it(net: Net, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_STATUS", 0.1)
    net.fake("one")
    net.fake("two")
    net.write({"type": "one"})
    (net.conf / "lab").mkdir()
    (net.conf / "lab/50-two.conf").write_text('{"type": "two"}')
    daemon = await net.start()
    await net.pod(daemon)
    assert [call.type for call in net.calls("ADD")] == ["one", "two"]
    (net.conf / "lab/50-two.conf").write_text('{"type": "../two"}')
    await until(lambda: "'../two' is not the name of a program" in daemon.condition()[2])
    (net.conf / "lab/50-two.conf").unlink()
    await until(lambda: daemon.condition()[0])


async def test_what_a_verbose_status_tells(net: Net, until: Until) -> None:
    """The keys and forms of containerd, which scripts read."""
    net.fake("fake")
    path = net.write({"type": "fake", "own": 1})
    daemon = await net.start()
    told = daemon.info()
    assert told["lastCNILoadStatus"] == "OK"
    read = json.loads(told["cniconfig"])
    assert (read["PluginDirs"], read["PluginConfDir"]) == ([str(net.bin), REAL], str(net.conf))
    (network,) = read["Networks"]
    assert (network["IFName"], network["Config"]["Name"], network["Config"]["CNIVersion"]) == ("eth0", "lab", "1.0.0")
    assert network["Config"]["Plugins"][0]["Network"] == {"type": "fake", "own": 1}
    path.unlink()
    await until(lambda: not daemon.condition()[0])
    told = daemon.info()
    assert "no network config found" in told["lastCNILoadStatus"]
    assert json.loads(told["cniconfig"])["Networks"] == []


async def test_a_directory_that_is_replaced_is_watched_again(net: Net, until: Until) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    net.conf.rename(net.directory / "elsewhere")
    net.conf.mkdir()
    run("rm", "-r", str(net.directory / "elsewhere"))
    await until(lambda: not daemon.condition()[0])
    net.write({"type": "fake"})
    await until(lambda: daemon.condition()[0])


async def test_status_keeps_the_network_from_being_ready(
    net: Net, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_STATUS", 0.1)
    answer = json.dumps({"code": 50, "msg": "full"})
    bad = f"[ $CNI_COMMAND = STATUS ] && [ -e {net.directory}/bad ] && {{ echo '{answer}'; exit 1; }}"
    net.fake("fake", bad)
    (net.directory / "bad").touch()
    net.write({"type": "fake"}, cniVersion="1.1.0")
    daemon = await net.start(ready=False)
    assert daemon.condition()[1:] == (
        "NetworkPluginNotReady",
        "Network plugin returns error: cni plugin not ready: CNI STATUS: the plugin fake failed (code 50): full",
    )
    (net.directory / "bad").unlink()
    await until(lambda: daemon.condition()[0])
    (net.directory / "bad").touch()
    await until(lambda: not daemon.condition()[0])


async def test_older_versions_are_not_asked_for_their_status(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"}, cniVersion="1.0.0")
    await net.start()
    assert net.calls() == []


async def test_a_plugin_that_hangs_does_not_keep_the_node_from_starting(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni, "_FIRST_LOOK", 0.2)
    net.fake("fake", "[ $CNI_COMMAND = STATUS ] && sleep 99")
    net.write({"type": "fake"}, cniVersion="1.1.0")
    started = time.monotonic()
    await net.start(ready=False)
    assert time.monotonic() - started < 20
