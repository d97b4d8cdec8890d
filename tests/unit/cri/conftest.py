"""Both services over a real unix socket, on pods and images that need no kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
import pytest

from ropewalk.cri.image_service import ImageService
from ropewalk.cri.runtime_service import RuntimeService
from ropewalk.cri.status import NodeStatus
from ropewalk.images.store import Images
from ropewalk.runtimes.apparmor import AppArmor
from ropewalk.runtimes.handler import Probe
from ropewalk.runtimes.health import Health
from ropewalk.runtimes.registry import Handlers
from ropewalk.wire import grpc as wire
from ropewalk.wire.pb import cri_pb2 as pb
from tests.fakes import domain, world

OK = grpc.StatusCode.OK


class Call(NamedTuple):
    """How a method ended: its reply, or its code and text."""

    code: grpc.StatusCode
    reply: Any = None
    text: str = ""


class Node:
    """The fakes, and `call`: any method by name with its request's fields."""

    def __init__(self, directory: Path) -> None:
        self.database = domain.database(directory)
        self.images = Images(self.database)
        self.sandboxes = domain.FakeSandboxes(self.database)
        self.containers = domain.FakeContainers(self.database, self.sandboxes, self.images)
        self.stats = domain.FakeStats(self.sandboxes, self.containers)
        self.network = domain.FakeNetwork()
        self.cgroups = domain.FakeCgroups()
        self.puller = domain.FakePuller(self.images)
        self.handler = world.FakeHandler(world.World())
        self.handlers = Handlers({"crun": self.handler, "other": self.handler}, "crun")
        self.health = Health(self.handlers)
        self.channel: grpc.aio.Channel = cast(grpc.aio.Channel, None)

    def services(self) -> list[Any]:
        status = NodeStatus(
            self.handlers,
            self.health,
            cast(Any, self.network),
            cast(Any, self.cgroups),
            AppArmor(enabled=False),
            config=lambda: {"stateDir": "/run/ropewalk"},
        )
        runtime = RuntimeService(
            cast(Any, self.sandboxes),
            cast(Any, self.containers),
            cast(Any, self.stats),
            self.handlers,
            cast(Any, self.network),
            status,
        )
        images = ImageService(self.images, cast(Any, self.puller), domain.totals, mountpoint="/data")
        services = pb.DESCRIPTOR.services_by_name
        return [(services["RuntimeService"], runtime), (services["ImageService"], images)]

    async def call(self, name: str, **fields: Any) -> Call:
        """E.g. call("StopContainer", container_id="x"): the method's name tells its service and messages."""
        request = getattr(pb, f"{name}Request")(**fields)
        reply = getattr(pb, f"{name}Response")
        method: Any = self.channel.unary_unary(path(name), request.__class__.SerializeToString, reply.FromString)
        try:
            return Call(OK, await method(request))
        except grpc.aio.AioRpcError as error:
            return Call(error.code(), None, error.details() or "")

    async def stream(self, name: str, **fields: Any) -> list[Any]:
        request = getattr(pb, f"{name}Request")(**fields)
        reply = getattr(pb, f"{name}Response")
        method: Any = self.channel.unary_stream(path(name), request.__class__.SerializeToString, reply.FromString)
        return [message async for message in method(request)]

    async def ok(self, name: str, **fields: Any) -> Any:
        call = await self.call(name, **fields)
        assert call.code is OK, call.text
        return call.reply

    async def pod(self, name: str = "web", **config: Any) -> str:
        """The id of a pod."""
        reply = await self.ok("RunPodSandbox", config=pod_config(name, **config))
        return str(reply.pod_sandbox_id)

    async def container(self, pod: str, name: str = "main", **config: Any) -> str:
        """The id of a created container."""
        if self.images.find(domain.IMAGE_ID) is None:
            self.images.record(domain.image())
        reply = await self.ok("CreateContainer", pod_sandbox_id=pod, config=container_config(name, **config))
        return str(reply.container_id)

    async def running(self, pod: str, name: str = "main", **config: Any) -> str:
        id = await self.container(pod, name, **config)
        await self.ok("StartContainer", container_id=id)
        return id


def path(name: str) -> str:
    service = "ImageService" if "Image" in name else "RuntimeService"
    return f"/runtime.v1.{service}/{name}"


def pod_config(name: str = "web", **config: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "namespace": "default", "attempt": 1}} | config


def container_config(name: str = "main", **config: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "attempt": 2}, "image": {"image": "busybox:1"}} | config


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    probing = asyncio.create_task(node.health.run())
    server = wire.Server(node.services())
    await server.start(str(tmp_path / "s"))
    async with wire.channel(str(tmp_path / "s")) as node.channel:
        yield node
    await server.stop(0)
    probing.cancel()
    node.database.close()


def broken(handler: world.FakeHandler, probe: Probe) -> None:
    """Make a handler's next probe say something else."""

    async def say() -> Probe:
        return probe

    handler.probe = say  # type: ignore[method-assign]
