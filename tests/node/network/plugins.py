"""A node's CNI: configurations, Debian's plugins, and fakes that write down how they are called."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk import ids
from ropewalk.network import cni, hostports
from ropewalk.network.attachment import Attachment
from ropewalk.spec import pod
from tests.node.network.lab import INSTANCE, Lab

REAL = "/usr/lib/cni"
FAKE_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
ADDRESS = "10.9.0.5/24"
WEB = pod.PortMapping(container_port=80, host_port=8080)
# What a fake plugin prints for ADD if its script does not: with the result before it, or one of its own.
SCRIPT = """#!/bin/sh
number=$(date +%s%N)
record={calls}/$number-{type}-$CNI_COMMAND
env >$record.env
cat >$record.new
mv $record.new $record.json
case $CNI_COMMAND in VERSION) echo '{versions}'; exit ;; esac
{script}
[ $CNI_COMMAND = ADD ] || exit 0
echo '{{"cniVersion": "{version}", "interfaces": [{{"name": "eth0", "sandbox": "'$CNI_NETNS'"}}],
    "ips": [{{"address": "{address}", "gateway": "10.9.0.1", "interface": 0}}], "dns": {{"domain": "{type}"}}}}'
"""


class Call(NamedTuple):
    """One run of a fake plugin."""

    type: str
    command: str
    env: dict[str, str]
    document: dict[str, Any]

    @property
    def domain(self) -> str:
        """The fake that made the previous result; "" for none."""
        return str(self.document.get("prevResult", {}).get("dns", {}).get("domain", ""))


class Net:
    """What stays on the disk of the node under test, and its daemons one after another."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.directory = lab.directory
        self.conf = lab.directory / "net.d"
        self.bin = lab.directory / "bin"
        self.calls_directory = lab.directory / "calls"
        for path in (self.conf, self.bin, self.calls_directory):
            path.mkdir()
        self.running: list[cni.Cni] = []

    def write(self, *plugins: dict[str, Any], file: str = "10-lab.conflist", **document: Any) -> Path:
        """A configuration; in place at once, as installers do it."""
        whole = {"cniVersion": "1.0.0", "name": "lab", "plugins": plugins} | document
        path = self.conf / file
        path.with_suffix(".new").write_text(json.dumps(whole))
        path.with_suffix(".new").rename(path)
        return path

    def fake(self, type: str, script: str = "", *, versions: tuple[str, ...] = FAKE_VERSIONS) -> None:
        """A plugin that writes down its call, runs `script`, and then does what is asked."""
        text = SCRIPT.format(
            calls=self.calls_directory,
            type=type,
            script=script,
            version="1.0.0",
            address=ADDRESS,
            versions=json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions}),
        )
        path = self.bin / f"{type}.new"
        path.write_text(text)
        path.chmod(0o755)
        path.rename(self.bin / type)

    def real(self, **bridge: Any) -> None:
        """bridge, host-local and portmap, as a cluster would configure them."""
        ipam = {
            "type": "host-local",
            "dataDir": f"{self.directory}/addresses",
            "ranges": [[{"subnet": "10.66.0.0/24"}], [{"subnet": "fd66::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }
        first = {"type": "bridge", "bridge": "cni-test", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        self.write(first | bridge, portmap)

    def reserved(self) -> list[str]:
        """The addresses that host-local has given."""
        path = self.directory / "addresses/lab"
        return sorted(name for name in os.listdir(path) if name[0].isdigit() or ":" in name) if path.exists() else []

    def calls(self, *commands: str) -> list[Call]:
        """How the fakes were called, oldest first; VERSION is left out unless it is asked for."""
        found = []
        for path in sorted(self.calls_directory.glob("*.json")):
            _, type, command = path.stem.split("-", 2)
            if command in commands or (not commands and command != "VERSION"):
                lines = path.with_suffix(".env").read_text().splitlines()
                env = dict(line.split("=", 1) for line in lines if line.startswith("CNI_"))
                found.append(Call(type, command, env, json.loads(path.read_text())))
        return found

    def make(self, **config: Any) -> cni.Cni:
        directories = [str(self.bin), REAL]
        given: dict[str, Any] = {"conf_dir": str(self.conf), "bin_dirs": directories, "timeout": 10.0} | config
        made = cni.Cni(
            cni.Config(**given),
            instance=INSTANCE,
            directory=f"{self.directory}/cni",
            ports=hostports.Ports(),
            netns_directory=self.lab.pins,
        )
        self.running.append(made)
        return made

    async def start(self, *, ready: bool = True, owned: dict[str, Attachment] | None = None, **config: Any) -> cni.Cni:
        made = self.make(**config)
        made.adopt(owned or {})
        await made.start()
        assert made.condition()[0] == ready, made.condition()
        return made

    async def kill(self, net: cni.Cni) -> None:
        """What the kernel does for a killed daemon: its sockets are closed, and nothing else."""
        self.running.remove(net)
        for task in net._tasks:
            task.cancel()
        await asyncio.gather(*net._tasks, return_exceptions=True)
        for sock in net._namespaces._sockets.values():
            sock.close()

    async def pod(self, net: cni.Cni, id: str = "", spec: pod.PodSpec | None = None) -> tuple[str, Attachment]:
        id, spec = id or ids.new_id(), spec or named("web")
        return id, await net.attach(id, net.plan(id, spec), spec)

    def left(self) -> list[str]:
        """Pins and files that attachments leave."""
        kept = self.directory / "cni"
        files = [name for name in os.listdir(kept) if name != "pod-cidr"] if kept.exists() else []
        pins = os.listdir(self.lab.pins) if os.path.isdir(self.lab.pins) else []
        return pins + files + self.reserved()

    async def close(self) -> None:
        for net in self.running:
            await net.close()


def runs(pid: int) -> bool:
    """Whether a process runs; one that only nobody has reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def named(name: str, **fields: Any) -> pod.PodSpec:
    return pod.PodSpec(metadata=pod.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"), **fields)
