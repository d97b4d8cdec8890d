"""How a pod hangs on the network: every name is chosen before anything is made, and stands in the pod's row."""

from __future__ import annotations

from msgspec import Struct, field

from ropewalk.spec.pod import PortMapping


class Attachment(Struct, frozen=True, omit_defaults=True):
    """`mode`: "bridge", "cni" (addresses, gateways, mac and host_interface are known once it is attached), or "host"
    (the node's own network: everything else is empty)."""

    mode: str
    netns: str = ""  # path of the pinned network namespace
    interface: str = "eth0"
    host_interface: str = ""  # its other end on the node, "" where it has none
    addresses: list[str] = field(default_factory=list)  # with prefix length, IPv4 first
    gateways: list[str] = field(default_factory=list)  # one per address, "" for none
    mac: str = ""  # the pod's end, "02:52:0a:58:00:05"
    ports: list[PortMapping] = field(default_factory=list)

    @property
    def ips(self) -> list[str]:
        return [address.partition("/")[0] for address in self.addresses]
