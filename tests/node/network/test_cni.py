"""CNI on a real kernel: Debian's plugins, and fakes that fail in every way that plugins do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ropewalk import ids
from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.linux import namespaces
from ropewalk.network import cache, cni, plugins
from ropewalk.spec import pod
from tests.node.network.conftest import NODE4, OUTSIDE4, Lab, ip, run
from tests.node.network.plugins import ADDRESS, Net, named, runs

Until = Callable[..., Any]
WEB = pod.PortMapping(container_port=80, host_port=8080)


@pytest.fixture
async def net(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Net]:
    monkeypatch.setattr(cni, "_RETRY", 0.1)
    monkeypatch.setattr(cni, "_QUIET", 0.02)
    made = Net(lab)
    yield made
    await made.close()


# Debian's plugins.


async def test_a_pod_is_attached_and_what_it_has_is_what_it_says(net: Net, lab: Lab) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    assert attachment.ips == net.reserved()
    (shown,) = ip("address", "show", "dev", "eth0", netns=attachment.netns)
    inside = [f"{a['local']}/{a['prefixlen']}" for a in shown["addr_info"] if a["scope"] == "global"]
    assert inside == attachment.addresses
    assert attachment.gateways == ["10.66.0.1", "fd66::1"]
    assert attachment.mac == shown["address"]
    assert "UP" in ip("link", "show", "dev", "lo", netns=attachment.netns)[0]["flags"]
    (port,) = ip("link", "show", "dev", attachment.host_interface)
    assert port["master"] == "cni-test"
    await lab.serve(attachment.netns, 80)
    assert await lab.ask("", attachment.ips[0], 80) == "10.66.0.1"

    await daemon.detach(id, attachment)
    assert net.left() == []
    assert attachment.host_interface not in {link["ifname"] for link in ip("link", "show")}
    await daemon.detach(id, attachment)  # again


async def test_host_ports_and_statistics(net: Net, lab: Lab) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon, spec=named("web", port_mappings=[WEB]))
    await lab.serve(attachment.netns, 80)
    run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert await lab.ask(lab.outside, NODE4, 8080) == OUTSIDE4
    assert await lab.ask("", "127.0.0.1", 8080)
    (counted,) = await daemon.stats(attachment)
    (shown,) = ip("-s", "link", "show", "dev", "eth0", netns=attachment.netns)
    assert counted.name == "eth0"
    assert 0 < counted.rx_bytes <= shown["stats64"]["rx"]["bytes"]
    assert 0 < counted.tx_bytes <= shown["stats64"]["tx"]["bytes"]
    await daemon.detach(id, attachment)
    assert "8080" not in run("iptables-save")
    assert await daemon.stats(attachment) == []


async def test_a_link_without_an_end_on_the_node_is_counted_inside(net: Net, lab: Lab) -> None:
    ipam = {"type": "host-local", "subnet": "203.0.113.0/24", "dataDir": f"{net.directory}/addresses"}
    net.write({"type": "macvlan", "master": "uplink", "ipam": ipam})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    assert attachment.host_interface == ""
    assert [stats.name for stats in await daemon.stats(attachment)] == ["eth0"]
    await daemon.detach(id, attachment)
    assert await daemon.stats(attachment) == []


async def test_a_pod_leaves_though_its_namespace_is_gone(net: Net) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon, spec=named("web", port_mappings=[WEB]))
    namespaces.unpin(attachment.netns)
    await daemon.detach(id, attachment)
    assert net.left() == []
    assert "8080" not in run("iptables-save")


async def test_a_namespace_that_is_gone_is_not_named(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    namespaces.unpin(attachment.netns)
    await daemon.detach(id, attachment)
    (delete,) = net.calls("DEL")
    assert (delete.env["CNI_NETNS"], delete.env["CNI_CONTAINERID"], delete.domain) == ("", id, "fake")


async def test_a_pod_leaves_though_its_configuration_is_gone(net: Net) -> None:
    net.real()
    first = await net.start()
    id, attachment = await net.pod(first, spec=named("web", port_mappings=[WEB]))
    await first.close()
    (net.conf / "10-lab.conflist").unlink()
    second = await net.start(ready=False, owned={id: attachment})
    await second.detach(id, attachment)
    assert net.left() == []
    assert "8080" not in run("iptables-save")


async def test_a_pod_leaves_though_what_was_kept_of_it_is_gone(net: Net) -> None:
    net.real()
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    os.unlink(f"{net.directory}/cni/{id}-eth0.json")
    await daemon.detach(id, attachment)
    assert net.left() == []


async def test_pods_come_and_go_at_the_same_time(net: Net) -> None:
    net.real()
    daemon = await net.start()
    pods = await asyncio.gather(*(net.pod(daemon) for _ in range(6)))
    assert len({attachment.ips[0] for _, attachment in pods}) == 6
    await asyncio.gather(*(daemon.detach(id, attachment) for id, attachment in pods))
    assert net.left() == []


# Plugins that fail.


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
    with pytest.raises(RopewalkError, match="'fake' is in none of"):
        await daemon.detach(id, attachment)
    net.fake("fake")
    await daemon.detach(id, attachment)


# What plugins are told.


async def test_what_a_plugin_is_told(net: Net) -> None:
    capabilities = dict.fromkeys(["portMappings", "bandwidth", "dns", "ipRanges", "cgroupPath"], True)
    net.fake("all")
    net.fake("none")
    net.write({"type": "all", "capabilities": capabilities, "own": {"key": 1}}, {"type": "none"})
    daemon = await net.start()
    daemon.set_pod_cidr("10.9.0.0/24,fd09::/64")
    spec = named(
        "web",
        port_mappings=[WEB],
        annotations={"kubernetes.io/ingress-bandwidth": "8M"},
        dns_config=pod.DNSConfig(servers=["10.0.0.10"]),
        linux=pod.LinuxPodSandboxConfig(cgroup_parent="/kubepods/pod1"),
    )
    id, attachment = await net.pod(daemon, spec=spec)
    assert attachment.addresses == [ADDRESS]
    daemon.set_pod_cidr("10.10.0.0/24")  # is for later pods
    await daemon.detach(id, attachment)
    expected = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": (1 << 32) - 1},
        "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
        "ipRanges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd09::/64"}]],
        "cgroupPath": "/kubepods/pod1",
    }
    for call in net.calls():
        assert call.document.get("runtimeConfig") == (expected if call.type == "all" else None)
        assert (call.document["name"], call.document["cniVersion"]) == ("lab", "1.0.0")
        assert call.env["CNI_CONTAINERID"] == id
        assert (call.env["CNI_NETNS"], call.env["CNI_IFNAME"]) == (attachment.netns, "eth0")
        assert call.env["CNI_ARGS"] == (
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
            f"K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-web"
        )
    assert [call.domain for call in net.calls()] == ["", "all", "none", "none"]
    assert net.calls()[0].document["own"] == {"key": 1}


async def test_the_pod_cidr_outlives_the_daemon(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake", "capabilities": {"ipRanges": True}})
    first = await net.start()
    first.set_pod_cidr("10.9.0.0/24")
    await first.close()
    await net.pod(await net.start())
    (add,) = net.calls("ADD")
    assert add.document["runtimeConfig"] == {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]}
    with pytest.raises(Invalid, match="pod CIDR"):
        net.running[-1].set_pod_cidr("nonsense")


async def test_what_can_never_be_is_refused_before_anything_is_made(net: Net) -> None:
    net.fake("fake")
    net.write({"type": "fake"})
    daemon = await net.start()
    for spec in (named("a;IP=10.0.0.1"), named("web", annotations={"kubernetes.io/egress-bandwidth": "fast"})):
        with pytest.raises(Invalid):
            daemon.plan(ids.new_id(), spec)
    assert net.left() == []


@pytest.mark.parametrize(
    ("offered", "spoken", "expected"),
    [
        (["0.4.0", "1.0.0", "1.1.0"], ("0.4.0", "1.0.0"), "1.0.0"),
        (["1.1.0", "1.0.0"], ("1.0.0", "1.1.0"), "1.1.0"),
        (["0.3.1"], ("0.3.1", "0.4.0"), "0.3.1"),
    ],
)
async def test_the_newest_version_that_every_plugin_speaks(
    net: Net, offered: list[str], spoken: tuple[str, ...], expected: str
) -> None:
    net.fake("one", versions=spoken)
    net.fake("two")
    net.write({"type": "one"}, {"type": "two"}, cniVersion=offered[0], cniVersions=offered[1:])
    daemon = await net.start()
    id, attachment = await net.pod(daemon)
    await daemon.detach(id, attachment)
    assert {call.document["cniVersion"] for call in net.calls("ADD", "DEL")} == {expected}
    told = [call.domain for call in net.calls("DEL")]
    assert told == (["", ""] if expected == "0.3.1" else ["two", "two"])  # DEL gets the result since 0.4.0


async def test_a_plugin_that_does_not_speak_the_version_is_said(net: Net) -> None:
    net.fake("old", versions=("0.4.0",))
    net.write({"type": "old"})
    daemon = await net.start(ready=False)
    assert "cniVersion 1.0.0 is not spoken" in daemon.condition()[2]


# Ready or not.


async def test_without_a_configuration_the_network_is_not_ready_until_there_is_one(net: Net, until: Until) -> None:
    net.conf.rmdir()
    daemon = await net.start(ready=False)
    ready, reason, message = daemon.condition()
    assert (ready, reason) == (False, "NetworkPluginNotReady")
    assert f"cni plugin not initialized: cannot read {net.conf}: No such file" in message
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
    assert daemon._network is not None
    assert daemon._network.name == "last"
    net.write(name="first", file="20-first.conf", type="fake", plugins=None)
    started = time.monotonic()
    await until(lambda: daemon._network is not None and daemon._network.name == "first")
    assert time.monotonic() - started < 2
    id, attachment = await net.pod(daemon)
    (net.conf / "20-first.conf").unlink()
    await until(lambda: daemon._network is not None and daemon._network.name == "last")
    await daemon.detach(id, attachment)
    assert {call.document["name"] for call in net.calls("ADD", "DEL")} == {"first"}


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
    monkeypatch.setattr(cni, "_STATUS", 0.1)
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
    assert time.monotonic() - started < 2


# After a kill.


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


async def test_a_check_without_an_answer_proves_nothing(net: Net) -> None:
    net.fake("fake", "[ $CNI_COMMAND = CHECK ] && sleep 99")
    net.write({"type": "fake"})
    daemon = await net.start(check=True, timeout=1.0)
    id, attachment = await net.pod(daemon)
    assert await daemon.check(id, attachment) == ""
