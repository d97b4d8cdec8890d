"""CNI network configurations: what is taken, what is refused, what a plugin is given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import Invalid
from ropewalk.network import conflist

DEEP = b'{"cniVersion": "1.0.0", "name": "x", "type": "x", "a": %s%s}' % (b"[" * 100_000, b"]" * 100_000)
BRIDGE = {"type": "bridge", "ipam": {"type": "host-local"}}


def text(**document: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [BRIDGE]} | document).encode()


def test_a_list_is_read_as_it_was_written() -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    network = conflist.parse(text(plugins=[BRIDGE, portmap], disableCheck=True, other="kept out"))
    assert network.plugins == [BRIDGE, portmap]
    assert (network.name, network.version, network.types) == ("lab", "1.0.0", ["bridge", "portmap"])
    assert (network.disable_check, network.disable_gc) == (True, False)


def test_a_single_plugin_is_a_list_of_one() -> None:
    document = {"cniVersion": "0.3.1", "name": "old", **BRIDGE}
    network = conflist.parse(json.dumps(document).encode())
    assert network.plugins == [document]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"]}, "1.1.0"),
        ({"cniVersion": "0.4.0", "cniVersions": ["0.3.1"]}, "0.4.0"),
        ({"cniVersion": "1.0.0", "cniVersions": ["2.0.0"]}, "1.0.0"),
    ],
)
def test_the_newest_version_that_we_speak_is_taken(document: dict[str, Any], expected: str) -> None:
    assert conflist.parse(text(**document)).version == expected


def test_all_plugins_must_speak_the_version() -> None:
    offered = ["0.4.0", "1.0.0", "1.1.0"]
    assert conflist.choose_version(offered, [["0.4.0", "1.0.0"], ["1.0.0", "1.1.0"]]) == "1.0.0"
    with pytest.raises(Invalid, match=r"cniVersion 1\.1\.0 is not spoken by us .* and its plugins"):
        conflist.choose_version(["1.1.0"], [["1.1.0"], ["1.0.0"]])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"{", "no network configuration"),
        (b"[]", "no network configuration"),
        (b"\xff", "no network configuration"),
        (DEEP, "no network configuration"),
        (b'{"plugins": []}', "missing required field `name`"),
        (text(name="a/b"), "'a/b' is not letters"),
        (text(name=""), "'' is not letters"),
        (text(plugins=[]), "no plugins"),
        (text(plugins=[{}]), "None is not the name of a program"),
        (text(cniVersion="0.2.0"), r"0\.2\.0 is not spoken"),
        (json.dumps({"name": "x", "type": "bridge"}).encode(), r"0\.1\.0 is not spoken"),
        (text(plugins=[{"type": "../../bin/sh"}]), "not the name of a program"),
        (text(plugins=[{"type": "bridge", "ipam": {"type": "/bin/sh"}}]), "not the name of a program"),
    ],
)
def test_what_is_wrong_is_said(document: bytes, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        conflist.parse(document)


@given(st.text())
def test_a_type_never_leaves_its_directory(type: str) -> None:
    """CVE-2021-20206."""
    try:
        conflist.check_types({"type": type})
    except Invalid:
        return
    assert os.path.normpath(os.path.join("/opt/cni/bin", type)) == f"/opt/cni/bin/{type}"
    assert "\0" not in type


def test_configurations_are_found_by_name(tmp_path: Path) -> None:
    for name in ("20-b.conf", "10-c.json", "30-a.conflist", "05.txt", "00.conflist~", "README"):
        (tmp_path / name).touch()
    found = [os.path.basename(path) for path in conflist.files(str(tmp_path))]
    assert found == ["10-c.json", "20-b.conf", "30-a.conflist"]


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.conf").write_bytes(b" " * (conflist.MAX_BYTES + 1))
    with pytest.raises(Invalid, match="larger"):
        conflist.read(str(tmp_path / "big.conf"))


def test_a_plugin_gets_what_it_declares_and_no_more() -> None:
    plugin = {"type": "portmap", "capabilities": {"portMappings": True, "bandwidth": False}, "cni.dev/x": 1}
    network = conflist.parse(text(plugins=[plugin]))
    capabilities = {"portMappings": [1], "bandwidth": {"ingressRate": 1}, "dns": {}}
    given = json.loads(conflist.build_input(network, plugin, capabilities=capabilities, previous=b'{"ips": []}'))
    assert given == plugin | {
        "name": "lab",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": [1]},
        "prevResult": {"ips": []},
    }


def test_without_anything_to_say_the_keys_are_absent() -> None:
    network = conflist.parse(text())
    assert json.loads(conflist.build_input(network, BRIDGE, capabilities={"dns": {}})) == BRIDGE | {
        "name": "lab",
        "cniVersion": "1.0.0",
    }


def test_garbage_collection_is_told_what_is_valid() -> None:
    network = conflist.parse(text())
    valid = [{"containerID": "x", "ifname": "eth0"}]
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):  # of later texts, of 1.1.0 as it was released
        assert json.loads(conflist.build_input(network, BRIDGE, valid=valid))[key] == valid
        assert json.loads(conflist.build_input(network, BRIDGE, valid=[]))[key] == []


def test_plugins_beside_a_list(tmp_path: Path) -> None:
    """CNI 1.1: *.conf in the directory that has the network's name."""
    path = tmp_path / "10-lab.conflist"
    path.write_bytes(text(plugins=[BRIDGE]))
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/2.conf").write_text('{"type": "tuning"}')
    (tmp_path / "lab/1.conf").write_text('{"type": "portmap"}')
    (tmp_path / "lab/3.json").write_text("{")
    network = conflist.read(str(path))
    assert (network.types, network.aggregated) == (["bridge", "portmap", "tuning"], True)
    path.write_bytes(text(plugins=None))  # none of its own
    assert conflist.read(str(path)).types == ["portmap", "tuning"]
    path.write_bytes(text(plugins=[BRIDGE], loadOnlyInlinedPlugins=True))
    network = conflist.read(str(path))
    assert (network.types, network.aggregated) == (["bridge"], False)
    path.write_bytes(text(plugins=None, **BRIDGE))  # the older format is one plugin's
    assert conflist.read(str(path)).types == ["bridge"]
    path.write_bytes(text(plugins=[BRIDGE]))
    (tmp_path / "lab/2.conf").write_text("{")
    with pytest.raises(Invalid, match=r"lab/2\.conf is no plugin's configuration"):
        conflist.read(str(path))


def test_a_named_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.conf")
    with pytest.raises(Invalid, match="no regular file"):
        conflist.read(str(tmp_path / "pipe.conf"))


def test_what_its_plugins_declare() -> None:
    declared = {"capabilities": {"portMappings": True, "bandwidth": False}}
    network = conflist.parse(text(plugins=[BRIDGE, {"type": "portmap"} | declared]))
    assert network.capabilities == {"portMappings"}
    with pytest.raises(Invalid, match="capabilities of its plugin portmap are no object"):
        conflist.parse(text(plugins=[{"type": "portmap", "capabilities": "all"}]))
