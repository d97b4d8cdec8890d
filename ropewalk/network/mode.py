"""The contract of a pod network, and how the node's two keep it.

A pod's attachment is *planned*: every name is chosen, and stands in the pod's row, before anything is made. Then it is
*attached*, which may find out more (addresses that a plugin chose): what attach returns replaces the row's. It is
*detached* at any point of this, again and again until that succeeds; whatever a kill left is found from the row, or
from what the mode keeps on disk itself.

    attachment = mode.plan(id, spec)                        # the row is committed with it
    attachment = await mode.attach(id, attachment, spec)    # and again
    await mode.detach(id, attachment)

After a restart: `adopt` with the pods that rows own, `start`, and once every row is adopted `sweep`. A mode that new
pods do not use any more still detaches, counts and looks after its old ones: `start` is then called only if it has any.
Calls for one pod come one after the other, calls for different pods at the same time; none may hold another up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from ropewalk.network.attachment import Attachment
from ropewalk.network.counters import InterfaceStats
from ropewalk.spec.pod import PodSpec


class Mode(ABC):
    """`name`: what `network.mode` and Attachment.mode say."""

    name: ClassVar[str]

    @abstractmethod
    def keep(self, ready: int) -> None:
        """From now on so many network namespaces are ready for the next pods."""

    @abstractmethod
    async def start(self) -> None:
        """Begin, with work in the background. What is wrong is not raised: `condition` says it."""

    @abstractmethod
    async def close(self) -> None:
        """End the work in the background; pods keep their network."""

    @abstractmethod
    def condition(self) -> tuple[bool, str, str]:
        """Ready, reason and message, as CRI's NetworkReady."""

    def info(self) -> dict[str, str]:
        """What a verbose Status tells beside the condition, by key."""
        return {}

    @abstractmethod
    def plan(self, pod_id: str, spec: PodSpec) -> Attachment:
        """The names for a pod, its own until `detach`. Raises INVALID for what can never be, UNAVAILABLE while the
        network cannot take pods."""

    @abstractmethod
    async def attach(self, pod_id: str, attachment: Attachment, spec: PodSpec) -> Attachment:
        """Make what was planned; the attachment as it is now. After a failure `detach` removes whatever was made. The
        namespace of a pod with users of its own is there already, since they own it."""

    @abstractmethod
    async def detach(self, pod_id: str, attachment: Attachment) -> None:
        """Undo of plan and attach, at any point of them; idempotent. Raises what keeps something of it."""

    @abstractmethod
    async def check(self, pod_id: str, attachment: Attachment) -> str:
        """What is known to be wrong with an attached pod's network; "" if nothing is."""

    @abstractmethod
    def adopt(self, owned: Mapping[str, Attachment]) -> None:
        """These pods are attached, or were being attached, since an earlier daemon. Before `start`."""

    @abstractmethod
    async def sweep(self) -> list[str]:
        """Undo what carries this instance's names and no pod owns; their names."""

    @abstractmethod
    async def stats(self, attachment: Attachment) -> list[InterfaceStats]:
        """Counters of a pod's interfaces, at most a second old; empty when they are gone."""

    @abstractmethod
    def set_pod_cidr(self, cidr: str) -> None:
        """The subnets of later pods, "10.1.0.0/24" or one of each family with a comma. INVALID if it is no subnet."""
