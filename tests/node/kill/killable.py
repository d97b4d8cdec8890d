"""A private node whose daemon can be told where to die, and what a test says about it in a few words."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable

import grpc

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.wire import grpc as wire
from tests.node.kill import kernel
from tools import node as nodes
from tools import workload

DEATH = 20.0 * workload.SLOWER  # seconds within which an armed daemon has passed its checkpoint


class Client(cri.Client):
    """One that connects anew: gRPC's channels of a process share connections, and all wait a second if one is
    refused."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost"))
        self._channel = grpc.aio.insecure_channel(wire.target(address), options=options)


class Node(nodes.Node):
    """Starts tests/node/kill/daemon.py, which is `ropewalk serve` with orders."""

    def command(self) -> list[str]:
        start, end = super().command(), ["-m", "ropewalk"]
        at = start.index(end[1])
        return [sys.executable, "-m", "tests.node.kill.daemon", str(self.base), *start[at + 1 :]]

    def client(self) -> cri.Client:
        return Client(self.address)

    async def start(self) -> float:
        """A killed daemon's child that has not come to its exec yet holds the old socket for a moment, and answers."""
        before = time.monotonic()
        try:
            return await super().start()
        except RopewalkError as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise
        while self.process is not None and self.process.poll() is None:
            with contextlib.suppress(RopewalkError):
                async with self.client() as client:
                    await workload.ready(client, before + nodes.READY)
                    return time.monotonic() - before
            await asyncio.sleep(0.02)
        raise nodes.DidNotStart(f"the daemon ended:\n{self.log()}")

    def arm(self, point: str, *, hits: int = 1, action: str = "kill") -> None:
        """The daemon does `action` at the `hits`-th passage of `point` from now on."""
        (self.base / "armed").write_text(f"{hits}\t{point}\t{action}\n")

    def disarm(self) -> bool:
        """Take the order back; whether it was still there, so nothing has passed the point."""
        armed = self.base / "armed"
        still = armed.exists()
        armed.unlink(missing_ok=True)
        return still

    def passed(self) -> list[str]:
        """The checkpoints passed since the last call."""
        path = self.base / "passed"
        names = path.read_text().split("\n")[:-1] if path.exists() else []
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(0)
        return names

    async def died(self) -> None:
        """Until the daemon has killed itself."""
        assert self.process is not None
        async with asyncio.timeout(DEATH):
            while (code := self.process.poll()) is None:
                await asyncio.sleep(0.002)
        assert code == -signal.SIGKILL, f"the daemon ended with {code}:\n{self.log()}"
        self.process = None

    async def killed_at(self, point: str, call: Awaitable[object], *, hits: int = 1) -> None:
        """Make a call whose daemon dies at `point`, and start the next daemon. AssertionError if not there."""
        self.arm(point, hits=hits)
        with contextlib.suppress(RopewalkError):
            await call
            assert not self.disarm(), f"{point} was not passed"
        await self.died()
        await self.start()

    def lines(self) -> set[str]:
        """What the kernel has of it now."""
        return kernel.lines(self)

    def has(self) -> set[str]:
        """What the kernel has of this node while nothing is under way."""
        found, last = self.lines(), set[str]()
        while found != last:
            time.sleep(0.02)
            found, last = self.lines(), found
        return found

    def settles(self, before: set[str], *, pod: str = "") -> None:
        """The kernel has again what it had. The control groups of `pod` may stay: its first container made them."""
        own = (f"/pod{pod}", f"-pod{pod}.slice", f"/ropewalk-monitors-{pod[:12]}") if pod else ("\0",)

        def difference() -> list[str]:
            return kernel.missing_and_added(before, {a for a in self.lines() if a in before or not a.endswith(own)})

        kernel.until(difference)

    def keeps_only(self, before: set[str], container: str) -> None:
        """Of what was added since `before`, nothing stays but files of an ended container."""

        def more() -> list[str]:
            added = [line for line in self.lines() - before if container not in line]
            return [line for line in added if not line.startswith(f"file {self.root}/snapshots/")]

        kernel.until(more)
