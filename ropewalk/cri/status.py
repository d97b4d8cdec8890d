"""The node's condition as Status tells it: can it run pods, can it give them a network, and if not, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ropewalk.linux.cgroup import Cgroups
from ropewalk.network.network import Network
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.health import Health
from ropewalk.runtimes.registry import Handlers
from ropewalk.wire.pb import cri_pb2 as pb

FIRST_PROBE = 2.0  # seconds that Status waits for the default handler's first probe


class NodeStatus:
    """Answers from memory. `config` tells what verbose answers show: the effective configuration, and `stateDir`
    (critest looks there)."""

    def __init__(
        self,
        handlers: Handlers,
        health: Health,
        network: Network,
        cgroups: Cgroups,
        apparmor: AppArmor,
        *,
        config: Callable[[], dict[str, Any]],
    ) -> None:
        self._handlers = handlers
        self._health = health
        self._network = network
        self._cgroups = cgroups
        self._apparmor = apparmor
        self._config = config

    async def response(self, *, verbose: bool) -> pb.StatusResponse:
        await self._health.known([self._handlers.default], FIRST_PROBE)
        return pb.StatusResponse(
            status=pb.RuntimeStatus(conditions=[self.runtime_condition(), self.network_condition()]),
            runtime_handlers=[self._features(name) for name in ("", *self._usable())],
            features=pb.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
            info=self._info() if verbose else None,
        )

    def cgroup_driver(self) -> pb.CgroupDriver:
        return pb.SYSTEMD if self._cgroups.driver == "systemd" else pb.CGROUPFS

    def runtime_condition(self) -> pb.RuntimeCondition:
        """True if pods without a RuntimeClass can run."""
        reason, message = self._problem()
        return pb.RuntimeCondition(type="RuntimeReady", status=not reason, reason=reason, message=message)

    def _problem(self) -> tuple[str, str]:
        problem = self._cgroups.problem()
        if problem:
            return "CgroupsNotUsable", problem
        name = self._handlers.default
        probe = self._health.probe(name)
        if probe.works:
            return "", ""
        return "RuntimeHandlerNotWorking", "; ".join(
            text
            for text in (f"the default runtime handler {name!r} does not work", probe.evidence, probe.advice)
            if text
        )

    def network_condition(self) -> pb.RuntimeCondition:
        ready, reason, message = self._network.condition()
        return pb.RuntimeCondition(type="NetworkReady", status=ready, reason=reason, message=message)

    def _usable(self) -> list[str]:
        """The handlers that a RuntimeClass may name; the default one stands there whatever its state."""
        return [name for name in self._handlers if name == self._handlers.default or self._health.probe(name).works]

    def _features(self, name: str) -> pb.RuntimeHandler:
        capabilities = self._handlers[name].capabilities
        return pb.RuntimeHandler(
            name=name,
            features=pb.RuntimeHandlerFeatures(
                recursive_read_only_mounts=capabilities.recursive_read_only,
                user_namespaces=capabilities.user_namespaces,
            ),
        )

    def _info(self) -> dict[str, str]:
        documents = {
            "config": self._config(),
            "runtimes": self._health.probes(),
            "appArmor": {"enabled": self._apparmor.enabled, "problem": self._apparmor.problem},
        }
        found = {name: msgspec.json.encode(document).decode() for name, document in documents.items()}
        return found | self._network.info()
