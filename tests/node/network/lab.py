"""A node of its own for each test: the test's thread moves into a new network namespace, with "outside" behind a link.

    outside (203.0.113.2, 2001:db8::2) ---- uplink (203.0.113.1, 2001:db8::1) node ---- bridge ---- pods

Programs that the test starts (ip, nft) and /proc/sys follow the thread, so nothing of the machine is touched. Pins are
kept in the test's directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from ropewalk.linux import namespaces
from ropewalk.network import bridged, hostports
from ropewalk.network.attachment import Attachment
from ropewalk.spec import pod

INSTANCE, TAG = "ropewalk-beef", "beef"
BRIDGE = "ropewalk-beef"
NODE4, OUTSIDE4 = "203.0.113.1", "203.0.113.2"
NODE6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
UPLINK_MTU = 1450


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def ip(*arguments: str, netns: str = "") -> Any:
    """What `ip -j` says, in the node or in a pinned namespace."""
    enter = ("nsenter", f"--net={netns}") if netns else ()
    return json.loads(run(*enter, "ip", "-j", *arguments) or "[]")


def nft(*arguments: str) -> Any:
    return json.loads(run("nft", "-j", *arguments))["nftables"]


def host_ports() -> dict[str, list[Any]]:
    """The elements of our table's maps, as nft lists them."""
    listed = nft("list", "table", "inet", INSTANCE)
    return {item["map"]["name"]: item["map"].get("elem", []) for item in listed if "map" in item}


def ports(*mappings: pod.PortMapping) -> pod.PodSpec:
    return pod.PodSpec(port_mappings=list(mappings))


class Lab:
    """The node under test. `outside` is the pin of a namespace that stands for the rest of the network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pins = f"{directory}/netns"
        self.outside = f"{directory}/outside"
        self.networks: list[bridged.Bridged] = []
        self._servers: list[asyncio.Server] = []

    def build(self) -> None:
        namespaces.make(["net"], {"net": self.outside})
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "uplink", "mtu", str(UPLINK_MTU), "type", "veth",
            "peer", "name", "eth0", "netns", self.outside)  # fmt: skip
        run("ip", "address", "add", f"{NODE4}/24", "dev", "uplink")
        run("ip", "address", "add", f"{NODE6}/64", "dev", "uplink", "nodad")
        run("ip", "link", "set", "uplink", "up")
        run("ip", "route", "add", "default", "via", OUTSIDE4)
        run("ip", "route", "add", "default", "via", OUTSIDE6)
        enter = ("nsenter", f"--net={self.outside}", "ip")
        run(*enter, "link", "set", "lo", "up")
        run(*enter, "address", "add", f"{OUTSIDE4}/24", "dev", "eth0")
        run(*enter, "address", "add", f"{OUTSIDE6}/64", "dev", "eth0", "nodad")
        run(*enter, "link", "set", "eth0", "up")

    def make(self, *, instance: str = INSTANCE, tag: str = TAG, **config: Any) -> bridged.Bridged:
        made = bridged.Bridged(
            bridged.Config(**config), instance=instance, tag=tag, ports=hostports.Ports(), netns_directory=self.pins
        )
        self.networks.append(made)
        return made

    async def start(self, **config: Any) -> bridged.Bridged:
        made = self.make(**config)
        await made.start()
        assert made.condition()[0], made.condition()
        return made

    async def kill(self, net: bridged.Bridged) -> None:
        """What the kernel does for a killed daemon: its sockets are closed, and nothing else."""
        self.networks.remove(net)
        for task in net._tasks:
            task.cancel()
        await asyncio.gather(*net._tasks, return_exceptions=True)
        for sock in (*net._namespaces._sockets.values(), net._sock()):
            sock.close()

    async def pod(self, net: bridged.Bridged, id: str, spec: pod.PodSpec | None = None) -> Attachment:
        spec = spec or pod.PodSpec()
        attachment = net.plan(id, spec)
        await net.attach(id, attachment, spec)
        return attachment

    async def serve(self, netns: str, port: int, *, kind: int = socket.SOCK_STREAM) -> None:
        """A server in a namespace, on every address of it, that answers with the client's address."""

        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET6, kind)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(("::", port))
            return made

        sock = namespaces.inside({"net": netns}, listen) if netns else listen()

        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(writer.get_extra_info("peername")[0].removeprefix("::ffff:").encode())
            writer.close()

        self._servers.append(await asyncio.start_server(answer, sock=sock))

    async def ask(self, netns: str, address: str, port: int, *, source: str = "", timeout: float = 20.0) -> str:
        """Connect from a namespace ("" is the node): what the server says, that is how it sees the caller."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            made.setblocking(False)
            if source:
                made.bind((source, 0))
            return made

        sock = namespaces.inside({"net": netns}, make) if netns else make()
        with sock:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
                return (await asyncio.get_running_loop().sock_recv(sock, 100)).decode()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()
        for net in self.networks:
            await net.close()
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.pins):
                namespaces.unpin(f"{self.pins}/{name}")
        namespaces.unpin(self.outside)
