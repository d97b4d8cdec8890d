"""Plugins that hang, refuse, lie or are missing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Kind, RopewalkError
from ropewalk.network import plugins
from tests.node.network.plugins import Net, named, runs

Until = Callable[..., Any]


async def test_a_plugin_that_hangs_holds_only_its_own_pod(net: Net, until: Until) -> None:
    hang = f"case $CNI_COMMAND-$CNI_ARGS in ADD-*NAME=bad*) sleep 99 & echo $! >{net.directory}/child; wait ;; esac"
    net.fake("fake", hang)
    net.write({"type": "fake"})
    daemon = await net.start(timeout=3.0)
    bad, spec = ids.new_id(), named("bad")
    planned = daemon.plan(bad, spec)
    stuck = asyncio.create_task(daemon.attach(bad, planned, spec))
    while not net.calls("ADD"):
        await asyncio.sleep(0.01)
    id, attachment = await net.pod(daemon)
    await daemon.detach(id, attachment)
    assert not stuck.done()
    with pytest.raises(RopewalkError, match=r"plugin fake did not end within 3 s and was killed") as caught:
        await stuck
    assert caught.value.kind is Kind.TIMEOUT
    child = int((net.directory / "child").read_text())
    await until(lambda: not runs(child))
    await daemon.detach(bad, planned)
    assert net.left() == []


async def test_a_failed_add_is_undone_by_every_plugin_last_first(net: Net) -> None:
    net.fake("one")
    net.fake("two", """[ $CNI_COMMAND = ADD ] && { echo '{"code": 11, "msg": "not yet"}'; exit 1; }""")
    net.write({"type": "one"}, {"type": "two"})
    daemon = await net.start()
    id, spec = ids.new_id(), named("web")
    planned = daemon.plan(id, spec)
    with pytest.raises(plugins.Failed, match=r"CNI ADD: the plugin two failed \(code 11\): not yet") as caught:
        await daemon.attach(id, planned, spec)
    assert caught.value.kind is Kind.UNAVAILABLE
    await daemon.detach(id, planned)
    assert [(call.type, call.command) for call in net.calls()] == [
        ("one", "ADD"),
        ("two", "ADD"),
        ("two", "DEL"),
        ("one", "DEL"),
    ]
    assert [call.domain for call in net.calls()] == ["", "one", "", ""]
    assert net.left() == []


@pytest.mark.parametrize("answer", ["", "hello", '{"ips": [{"address": "x"}]}', '{"ips": []}'])
async def test_an_add_without_a_usable_result_fails(net: Net, answer: str) -> None:
    net.fake("fake", f"[ $CNI_COMMAND = ADD ] && {{ echo '{answer}'; exit 0; }}")
    net.write({"type": "fake"})
    daemon = await net.start()
    id = ids.new_id()
    with pytest.raises(RopewalkError, match=r"no CNI result|no address"):
        await net.pod(daemon, id)
    await daemon.detach(id, daemon.plan(id, named("web")))
    assert net.left() == []


async def test_a_failed_del_is_said_and_done_again(net: Net) -> None:
    net.fake("one")
    net.fake("two", f"[ $CNI_COMMAND = DEL ] && [ ! -e {net.directory}/good ] && {{ echo no >&2; exit 1; }}")
    net.write({"type": "one"}, {"type": "two"})
    first = await net.start()
    id, attachment = await net.pod(first)
    with pytest.raises(RopewalkError, match=r"CNI DEL: the plugin two failed \(exit 1\): no"):
        await first.detach(id, attachment)
    assert [call.type for call in net.calls("DEL")] == ["two", "one"]  # the others did what they could
    assert os.path.exists(attachment.netns)
    await net.kill(first)
    (net.directory / "good").touch()
    second = await net.start(owned={id: attachment})
    await second.detach(id, attachment)
    assert [call.domain for call in net.calls("DEL")] == ["two"] * 4
    assert net.left() == []


async def test_a_missing_plugin_is_said_at_add_and_at_del(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    (net.bin / "fake").unlink()
    with pytest.raises(RopewalkError, match=r"'fake' is in none of .*; install it"):
        await net.pod(daemon)
    with pytest.raises(RopewalkError, match="'fake' is in none of") as caught:
        await daemon.detach(id, attachment)
    net.fake("fake")
    await daemon.detach(id, attachment)
    assert caught.value.hint.endswith(f"remove {net.directory}/cni/{id}-eth0.json")


async def test_a_plugin_that_never_comes_back_does_not_keep_a_pod_for_ever(net: Net) -> None:
    """The administrator removes the file that the error names."""
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    (net.bin / "fake").unlink()
    with pytest.raises(RopewalkError, match="'fake' is in none of"):
        await daemon.detach(id, attachment)
    (net.directory / f"cni/{id}-eth0.json").unlink()
    await daemon.detach(id, attachment)
    assert net.left() == []
