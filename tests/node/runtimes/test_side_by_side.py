"""Every handler that works here in one node at once, with pods that come and go, while the daemon is killed: each pod
keeps to its own, and nothing stays."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from ropewalk.client import admin, values
from tests.node.kill import killable, patient
from tools import node as nodes
from tools import workload

NODE_CLASS = killable.Node
NODE_CONFIG = f'ready = 0\n[runtimes.youki]\npath = "{shutil.which("youki") or "youki"}"\n'

PODS = 5  # on each handler
ROUNDS = 2  # containers, one after the other, in each pod
KILLS = 4
SCRIPT = "trap 'echo bye {0}; exit 7' TERM; echo hello {0}; while :; do sleep 0.05; done"


async def works(node: nodes.Node) -> list[str]:
    async with admin.Client(node.address) as client:
        return [runtime.name for runtime in await client.runtimes() if runtime.works]


class Life(patient.Client):
    """One pod, driven as the kubelet does."""

    def __init__(self, node: nodes.Node, handler: str, number: int) -> None:
        super().__init__(node)
        self.handler = handler
        self.token = f"{handler}-{number}"
        self.spec = workload.pod_spec(self.token, logs=node.logs, runtime_handler=handler)
        self.address = ""

    async def live(self, everybody: asyncio.Barrier) -> None:
        Path(self.spec.log_directory).mkdir(parents=True)
        pod = await self.answered(lambda client: client.run_pod(self.spec))
        status = await self.answered(lambda client: client.pod_status(pod))
        assert status.runtime_handler == self.handler
        self.address = status.network.ip
        await everybody.wait()  # all pods are there at once
        for number in range(ROUNDS):
            await self.round(pod, f"c{number}", f"{self.token}-{number}")
        await self.answered(lambda client: client.stop_pod(pod))
        await self.answered(lambda client: client.remove_pod(pod))

    async def round(self, pod: str, name: str, token: str) -> None:
        wanted = workload.container_spec(name, "sh", "-c", SCRIPT.format(token), of=self.spec)
        id = await self.answered(lambda client: client.create(pod, wanted, self.spec))
        await self.start(id)
        await self.says(name, f"hello {token}\n")
        assert await self.name(id) == self.token
        await self.answered(lambda client: client.stop(id, 20))
        status = await self.answered(lambda client: client.container_status(id))
        assert (status.state, status.exit_code) == (values.ContainerState.EXITED, 7), (self.token, status)
        assert self.output(name) == f"hello {token}\nbye {token}\n"
        await self.answered(lambda client: client.remove(id))

    async def name(self, id: str) -> str:
        """The host name that a command inside sees. A daemon that was killed meanwhile took the command along."""
        while True:
            done = await self.answered(lambda client: client.exec_sync(id, ["hostname"], timeout=20))
            if done.exit_code == 0:
                return done.stdout.decode().strip()

    def output(self, name: str) -> str:
        path = Path(self.spec.log_directory, f"{name}.log")
        text = path.read_text() if path.exists() else ""
        return "".join(line.split(" ", 3)[3] + "\n" for line in text.splitlines())

    async def says(self, name: str, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in self.output(name):
                await asyncio.sleep(0.02)


async def kill(node: nodes.Node, chance: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        node.kill()
        await node.start()


@pytest.mark.timeout(300)
async def test_they_do_not_meet_and_nothing_stays(pulled: killable.Node) -> None:
    handlers = await works(pulled)
    assert {"crun", "runc"} <= set(handlers)
    before = pulled.has()
    lives = [Life(pulled, handler, number) for handler in handlers for number in range(PODS)]
    everybody = asyncio.Barrier(len(lives))
    async with asyncio.TaskGroup() as group:
        for life in lives:
            group.create_task(life.live(everybody))
        group.create_task(kill(pulled, random.Random(7)))
    assert len({life.address for life in lives}) == len(lives)
    async with pulled.client() as client:
        assert (await client.pods(), await client.containers()) == ([], [])
    pulled.settles(before)
    for handler in handlers:
        directory = pulled.state / "runtimes" / handler
        assert [one.name for one in directory.glob("[0-9a-f]*")] == []
    assert list((pulled.state / "containers").iterdir()) == []


@pytest.mark.timeout(180)
async def test_a_pod_stops_with_a_container_that_was_never_started(pulled: killable.Node) -> None:
    """And is removed: whoever watches containers and keeps their logs ends with the pod."""
    async with pulled.client() as client:
        for handler in await works(pulled):
            pod = await workload.run_pod(client, workload.pod_spec(logs=pulled.logs, runtime_handler=handler))
            await pod.start("running", "sleep", "600")
            id = await pod.create("created", "sleep", "600")
            await client.stop_pod(pod.id)
            assert (await client.container_status(id)).exit_code == 137, handler
            await client.remove_pod(pod.id)
