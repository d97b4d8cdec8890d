"""The next daemon: what it undoes, sweeps, lets plugins collect and check."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.network import cache, cni, plugins
from tests.node.network.lab import run
from tests.node.network.plugins import WEB, Net, named

Until = Callable[..., Any]


async def test_a_kill_during_add_leaves_a_pod_that_can_leave(net: Net) -> None:
    """The row was committed with what was planned; what ADD gave never came into it."""
    net.real()
    first = await net.start()
    id, spec = ids.new_id(), named("web", port_mappings=[WEB])
    planned = first.plan(id, spec)
    await first.attach(id, planned, spec)
    await net.kill(first)
    second = await net.start(owned={id: planned})
    assert await second.sweep() == []
    await second.detach(id, planned)
    assert net.left() == []
    assert "8080" not in run("iptables-save")


async def test_a_kill_before_the_result_was_kept(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    first = await net.start()
    id, attachment = await net.pod(first)
    path = net.directory / f"cni/{id}-eth0.json"
    document = json.loads(path.read_text())
    del document["result"]
    path.write_text(json.dumps(document))
    await net.kill(first)
    second = await net.start(owned={id: attachment})
    await second.detach(id, attachment)
    (delete,) = net.calls("DEL")
    assert "prevResult" not in delete.document
    assert net.left() == []


async def test_a_plugin_that_outlives_the_daemon_does_not_outlive_the_next_ones_start(net: Net, until: Until) -> None:
    """ADD goes on after a kill: what it makes after our DEL would stay for ever."""
    gate = net.directory / "gate"
    slow = f"[ $CNI_COMMAND = ADD ] && {{ until [ -e {gate} ]; do sleep 0.05; done; touch {net.directory}/made; }}"
    net.fake("fake", slow)
    net.write({"type": "fake"})
    first = await net.start()
    id, spec = ids.new_id(), named("web")
    planned = first.plan(id, spec)
    program = f"{net.bin}/fake"
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": id, "CNI_NETNS": planned.netns, "CNI_ARGS": ""}
    first._cache.write(cache.Entry(id, "eth0", planned.netns, first._discovery.usable()))
    await net.kill(first)
    with subprocess.Popen([program], env=env, start_new_session=True, stdin=subprocess.PIPE) as orphan:
        assert orphan.stdin is not None
        orphan.stdin.write(b"{}")
        orphan.stdin.close()
        await until(lambda: net.calls("ADD"))
        second = await net.start(owned={id: planned})
        assert orphan.wait(10) == -signal.SIGKILL
    await second.detach(id, planned)
    assert net.left() == []
    gate.touch()
    await asyncio.sleep(0.2)
    assert not (net.directory / "made").exists()


async def test_what_no_pod_owns_is_swept_and_what_is_owned_stays(net: Net) -> None:
    net.real()
    first = await net.start()
    kept, mine = await net.pod(first)
    lost, stray = await net.pod(first, spec=named("web", port_mappings=[WEB]))
    first.plan(ids.new_id(), named("planned"))
    await net.kill(first)
    second = await net.start(owned={kept: mine})
    found = await second.sweep()
    assert f"CNI attachment {lost}" in found
    assert stray.netns in found
    assert os.listdir(net.lab.pins) == [os.path.basename(mine.netns)]
    assert net.reserved() == sorted(mine.ips)
    assert "8080" not in run("iptables-save")
    assert await second.sweep() == []
    await second.detach(kept, mine)
    assert net.left() == []


async def test_a_sweep_that_fails_is_tried_again(net: Net) -> None:
    net.fake("fake", "[ $CNI_COMMAND = DEL ] && exit 1")
    net.write({"type": "fake"})
    first = await net.start()
    _, stray = await net.pod(first)
    await net.kill(first)
    second = await net.start()
    assert await second.sweep() == []
    assert os.path.exists(stray.netns)
    net.fake("fake")
    assert len(await second.sweep()) == 2
    assert net.left() == []


async def test_garbage_collection_is_told_what_is_valid(
    net: Net, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "foreign", lambda name: [{"containerID": f"beside us in {name}", "ifname": "eth0"}])
    net.fake("one", "[ $CNI_COMMAND = GC ] && exit 1")
    net.fake("two")
    net.write({"type": "one"}, {"type": "two"}, cniVersion="1.1.0")
    first = await net.start()
    id, attachment = await net.pod(first)
    await net.kill(first)
    second = await net.start(owned={id: attachment})
    await second.sweep()
    await until(lambda: len(net.calls("GC")) == 2)
    for call in net.calls("GC"):
        assert call.document["cni.dev/valid-attachments"] == [
            {"containerID": id, "ifname": "eth0"},
            {"containerID": "beside us in lab", "ifname": "eth0"},
        ]
        assert "CNI_CONTAINERID" not in call.env


async def test_a_pod_whose_file_is_damaged_or_gone_is_not_collected(
    net: Net, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addresses would be another's while it runs."""
    monkeypatch.setattr(cache, "foreign", lambda name: [])
    net.fake("fake")
    net.write({"type": "fake"}, cniVersion="1.1.0")
    first = await net.start()
    owned = dict([await net.pod(first), await net.pod(first)])
    await net.kill(first)
    gone, damaged = (Path(first._cache.path(id, "eth0")) for id in owned)
    gone.unlink()
    damaged.write_text("{")
    second = await net.start(owned=owned)
    await second.sweep()
    await until(lambda: net.calls("GC"))
    (call,) = net.calls("GC")
    assert {one["containerID"] for one in call.document["cni.dev/valid-attachments"]} == set(owned)


async def test_garbage_collection_that_hangs_holds_pods_up_for_its_limit_only(
    net: Net, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni, "_GC_LIMIT", 0.5)
    hang = "[ $CNI_COMMAND = GC ] && sleep 99"
    net.fake("one", hang)
    net.fake("two", hang)
    net.write({"type": "one"}, {"type": "two"}, cniVersion="1.1.0")
    daemon = await net.start()
    await daemon.sweep()
    await until(lambda: len(net.calls("GC")) == 1)
    started = time.monotonic()
    id, attachment = await net.pod(daemon)
    assert time.monotonic() - started < 30
    await daemon.detach(id, attachment)
    assert len(net.calls("GC")) == 1


async def test_what_another_instance_attached_is_not_collected(
    net: Net, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """Its results are kept where only it knows; its namespaces stand beside ours."""
    net.fake("fake")
    net.write({"type": "fake"}, cniVersion="1.1.0")
    daemon = await net.start()
    os.makedirs(net.lab.pins, exist_ok=True)
    beside = f"{net.lab.pins}/ropewalk-cni-0123456789ab"
    open(beside, "w").close()
    await daemon.sweep()
    await until(lambda: "another Ropewalk on this node has pods" in caplog.text)
    assert net.calls("GC") == []
    os.unlink(beside)
    await daemon.sweep()
    await until(lambda: len(net.calls("GC")) == 1)


@pytest.mark.parametrize(
    ("document", "config"), [({"cniVersion": "1.0.0"}, {}), ({"disableGC": True}, {}), ({}, {"gc": False})]
)
async def test_garbage_collection_is_left_out(net: Net, document: dict[str, Any], config: dict[str, Any]) -> None:
    net.fake("fake")
    net.write({"type": "fake"}, **{"cniVersion": "1.1.0"} | document)
    daemon = await net.start(**config)
    await daemon.sweep()
    await asyncio.gather(*daemon._tasks[2:])
    assert net.calls("GC") == []


async def test_check_says_what_the_plugins_say(net: Net) -> None:
    net.real()
    daemon = await net.start(check=True)
    id, attachment = await net.pod(daemon)
    assert await daemon.check(id, attachment) == ""
    run("nsenter", f"--net={attachment.netns}", "ip", "address", "flush", "dev", "eth0", "scope", "global")
    assert "CNI CHECK: the plugin bridge failed" in await daemon.check(id, attachment)
    await daemon.detach(id, attachment)
    assert await daemon.check(id, attachment) == ""


@pytest.mark.parametrize(
    ("document", "config"),
    [({"disableCheck": True}, {"check": True}), ({"cniVersion": "0.3.1"}, {"check": True}), ({}, {})],
)
async def test_check_is_left_out(net: Net, document: dict[str, Any], config: dict[str, Any]) -> None:
    net.fake("fake")
    net.write({"type": "fake"}, **document)
    daemon = await net.start(**config)
    id, attachment = await net.pod(daemon)
    assert await daemon.check(id, attachment) == ""
    assert net.calls("CHECK") == []


async def test_a_check_without_an_answer_proves_nothing(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    net.fake("fake", "[ $CNI_COMMAND = CHECK ] && sleep 99")
    net.write({"type": "fake"})
    daemon = await net.start(check=True)
    id, attachment = await net.pod(daemon)
    monkeypatch.setattr(plugins, "_QUICK", 0.2)
    assert await daemon.check(id, attachment) == ""
