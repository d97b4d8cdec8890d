"""A killable node whose pods hang on CNI networks, in a network namespace of its own.

Debian's bridge, host-local and portmap make links and iptables rules where the daemon lives: nothing of the machine is
touched.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from ropewalk.linux import namespaces
from tests.node.kill import killable

BRIDGE = "cni-test"
PLUGINS = "/usr/lib/cni"


class Node(killable.Node):
    """It starts as every node does, so that images can be pulled; `plug` moves it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = self.base / "own-network"
        self.addresses = self.base / "addresses"

    async def plug(self) -> None:
        """Leave the machine's network and the built-in bridge for good."""
        self.stop()
        namespaces.make(["net"], {"net": str(self.own)})
        subprocess.run([*self.enter(), "ip", "link", "set", "lo", "up"], check=True)
        conf = self.base / "net.d"
        conf.mkdir()
        ipam = {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]], "dataDir": str(self.addresses)}
        first = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        document = {"cniVersion": "1.0.0", "name": "lab", "plugins": [first, portmap]}
        (conf / "10-lab.conflist").write_text(json.dumps(document))
        places = f'[network.cni]\nconf_dir = "{conf}"\nbin_dirs = ["{PLUGINS}"]\n'
        text = self.config_file.read_text().replace('mode = "bridge"', 'mode = "cni"')
        self.config_file.write_text(text + places)
        await self.start()

    def enter(self) -> list[str]:
        return ["nsenter", f"--net={self.own}"] if self.own.exists() else []

    def command(self) -> list[str]:
        return [*self.enter(), *super().command()]

    async def _empty(self) -> None:
        try:
            await super()._empty()
        finally:
            namespaces.unpin(str(self.own))

    # What there is.

    def lines(self) -> set[str]:
        kept = self.root / "cni"
        return {
            *super().lines(),
            *self._links(),
            *self._rules(),
            *(f"address {name}" for name in self.reserved()),
            *(f"file {kept}/{name}" for name in (os.listdir(kept) if kept.exists() else [])),
        }

    def reserved(self) -> list[str]:
        """The addresses that host-local has given."""
        path = self.addresses / "lab"
        return sorted(name for name in os.listdir(path) if name[0].isdigit()) if path.exists() else []

    def _links(self) -> Iterator[str]:
        """Pods' ends on the node; a link that is being destroyed may lose its name meanwhile."""
        done = subprocess.run([*self.enter(), "ip", "-j", "link"], check=True, capture_output=True)
        yield from (f"link {link['ifname']}" for link in json.loads(done.stdout) if link["ifname"].startswith("veth"))

    def _rules(self) -> Iterator[str]:
        done = subprocess.run([*self.enter(), "iptables-save", "-t", "nat"], check=True, capture_output=True, text=True)
        yield from (f"rule {line}" for line in done.stdout.splitlines() if "CNI-DN-" in line)
