"""The node's pod network: new pods by the mode that is set, every other pod by the mode that stands in its row.

So a switch of `network.mode` leaves old pods connected, counted and removable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import replace

from ropewalk.network import bridged, cni, hostports, netns
from ropewalk.network.attachment import Attachment
from ropewalk.network.counters import InterfaceStats
from ropewalk.network.mode import Mode
from ropewalk.spec.pod import PodSpec

HOST = "host"  # the node's own network needs nothing
DEFAULT: Literal["cni", "bridge"] = "cni"


class Config(bridged.Config, frozen=True, kw_only=True):
    """[network]"""

    mode: Annotated[
        Literal["cni", "bridge"],
        Meta(description='"cni": plugins, as clusters use; "bridge": the built-in network of a single node'),
    ] = DEFAULT
    cni: cni.Config = cni.Config()


class Network:
    """See the module. `directory`: where the CNI mode keeps results; `tag` (4 hex digits) names links."""

    def __init__(
        self, config: Config, *, instance: str, tag: str, directory: str, netns_directory: str = netns.DIRECTORY
    ) -> None:
        ready = {config.mode: config.ready}  # for new pods; the other mode has only old ones
        ports = hostports.Ports()  # a port of the node is one pod's, whatever that pod hangs on
        self.bridge = bridged.Bridged(
            replace(config, ready=ready.get("bridge", 0)),
            instance=instance,
            tag=tag,
            ports=ports,
            netns_directory=netns_directory,
        )
        self.cni = cni.Cni(
            config.cni,
            instance=instance,
            directory=directory,
            ports=ports,
            netns_directory=netns_directory,
            ready=ready.get("cni", 0),
        )
        self._modes: dict[str, Mode] = {mode.name: mode for mode in (self.bridge, self.cni)}
        self._mode = self._modes[config.mode]
        self._used: set[str] = {config.mode}

    def configure(self, config: Config) -> None:
        """Take over `ready`, for the mode that new pods get; every other key needs a restart."""
        self._mode.keep(config.ready)

    async def start(self) -> None:
        for name in sorted(self._used):
            await self._modes[name].start()

    async def close(self) -> None:
        for mode in self._modes.values():
            await mode.close()

    def condition(self) -> tuple[bool, str, str]:
        """Ready, reason and message, as CRI's NetworkReady."""
        return self._mode.condition()

    def info(self) -> dict[str, str]:
        """See Mode.info."""
        return self._mode.info()

    def plan(self, pod_id: str, spec: PodSpec) -> Attachment:
        """See Mode.plan."""
        return Attachment(mode=HOST, interface="") if spec.host_network else self._mode.plan(pod_id, spec)

    async def attach(self, pod_id: str, attachment: Attachment, spec: PodSpec) -> Attachment:
        """See Mode.attach."""
        mode = self._modes.get(attachment.mode)
        return await mode.attach(pod_id, attachment, spec) if mode else attachment

    async def detach(self, pod_id: str, attachment: Attachment) -> None:
        """See Mode.detach."""
        if mode := self._modes.get(attachment.mode):
            await mode.detach(pod_id, attachment)

    async def check(self, pod_id: str, attachment: Attachment) -> str:
        """See Mode.check."""
        mode = self._modes.get(attachment.mode)
        return await mode.check(pod_id, attachment) if mode else ""

    def adopt(self, owned: Mapping[str, Attachment]) -> None:
        """See Mode.adopt."""
        for name, mode in self._modes.items():
            pods = {pod_id: attachment for pod_id, attachment in owned.items() if attachment.mode == name}
            if pods:
                self._used.add(name)
                mode.adopt(pods)

    async def sweep(self) -> list[str]:
        """See Mode.sweep."""
        return [name for mode in self._modes.values() for name in await mode.sweep()]

    async def stats(self, attachment: Attachment) -> list[InterfaceStats]:
        """See Mode.stats; empty for the node's own network."""
        mode = self._modes.get(attachment.mode)
        return await mode.stats(attachment) if mode else []

    def set_pod_cidr(self, cidr: str) -> None:
        """See Mode.set_pod_cidr."""
        for mode in self._modes.values():
            mode.set_pod_cidr(cidr)
