"""gVisor's pods through Ropewalk beside the same bundles driven by hand: `./dev bench gvisor`, in turns.

By hand is what nothing can undercut: `runsc create` and `start` for the pod's own container and for one more, with the
config.json that Ropewalk wrote, root file systems and a network namespace that are there already, output to a file. A
pod through the CRI has all that made for it, and its network. Then 200 pods, and what is left of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import statistics as plain
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import statistics
from ropewalk.client import cri
from ropewalk.linux import cgroup, mount, process
from ropewalk.linux.spawn import PATH
from ropewalk.runtimes.drivers.runsc import driver
from ropewalk.spec.image import ImageSpec
from tools import gvisor, images, node, workload

PAIRS = 15
CHURN, AT_ONCE = 200, 4  # pods
SECONDS = 20.0  # for one verb
TICK = 1000 / os.sysconf("SC_CLK_TCK")  # ms
BAR, CPU_BAR = 1.6, 10.0  # times as long; ms


class ByHand:
    """`pod` and `container`: config.json of each, as Ropewalk had them."""

    def __init__(self, program: str, platform: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="ropewalk-hand-", dir="/var/tmp"))
        self.argv = [program, f"--root={self.base}/root", f"--platform={platform}", "--network=sandbox"]
        self.netns = f"ropewalk-hand-{os.getpid()}"
        self.cgroups = cgroup.detect()
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)
        for name, config in (("pod", pod), ("main", container)):
            (self.base / name).mkdir()
            self._write(name, config)

    def _write(self, name: str, config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [
            {"type": "network", "path": f"/run/netns/{self.netns}"} if one["type"] == "network" else one
            for one in config["linux"]["namespaces"]
            if one["type"] in ("network", "mount", "pid")
        ]
        if name == "pod":
            config["linux"]["cgroupsPath"] = f"/{self.netns}/pod"
        config["annotations"]["io.kubernetes.cri.sandbox-id"] = "pod"
        config["mounts"] = [one for one in config["mounts"] if one["type"] != "bind"]
        config["root"]["path"] = str(self.base / "image")
        (self.base / name / "config.json").write_text(json.dumps(config))

    def image(self, source: str) -> None:
        """A copy of a root file system."""
        shutil.copytree(source, self.base / "image", symlinks=True)

    def run(self, *verb: str, hidden: bool = False) -> None:
        """With a deadline that needs no polling."""
        hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc/sys/net && exec "$0" "$@"'] if hidden else []
        with open(self.base / "output", "wb") as output:
            child = subprocess.Popen([*hide, *self.argv, *verb], stdout=output, stderr=output, env={"PATH": PATH})
        pidfd = os.pidfd_open(child.pid)
        ended, _, _ = select.select([pidfd], [], [], SECONDS)
        os.close(pidfd)
        if not ended:
            child.kill()
        if child.wait() != 0:
            raise RuntimeError(f"{verb[0]}: exit {child.returncode}: {(self.base / 'output').read_text()[-500:]}")

    def sample(self, *, hidden: bool) -> float:
        before = time.perf_counter()
        self.run("create", "--bundle", f"{self.base}/pod", "pod")
        self.run("start", "pod", hidden=hidden)
        self.run("create", "--bundle", f"{self.base}/main", "main")
        self.run("start", "main")
        took = time.perf_counter() - before
        self.end()
        return took * 1000

    def end(self) -> None:
        """Without `delete`, which may wait long for a parent that reaps."""
        asyncio.run(self.cgroups.kill(f"/{self.netns}"))
        shutil.rmtree(self.base / "root", ignore_errors=True)
        (self.base / "image/.gvisor.filestore.pod").unlink(missing_ok=True)

    def close(self) -> None:
        self.end()
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        asyncio.run(self.cgroups.remove(f"/{self.netns}"))
        shutil.rmtree(self.base, ignore_errors=True)


async def through_cri(client: cri.Client, running: node.Node) -> tuple[float, workload.Pod]:
    before = time.perf_counter()
    pod = await workload.run_pod(client, workload.pod_spec(logs=running.logs, runtime_handler="newer"))
    await pod.start("main", "sleep", "600")
    return (time.perf_counter() - before) * 1000, pod


def own_ms(running: node.Node) -> float:
    """Processor time of the daemon itself, without its children."""
    fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


async def measure() -> int:
    program = str(gvisor.ensure())
    config = f'[runtimes.newer]\ntype = "runsc"\npath = "{program}"\n'
    with node.serving() as served:
        async with node.Node(served, config=config) as running, running.client() as client:
            await client.pull(ImageSpec(image=images.BUSYBOX))
            while "newer" not in {found.name for found in (await client.status()).runtime_handlers}:
                await asyncio.sleep(0.2)
            kept = json.loads((running.state / "probes/newer.json").read_bytes())["probe"]["facts"]
            facts = driver.read_facts(kept)
            _, pod = await through_cri(client, running)
            bundles = running.state / "containers"
            configs = [
                json.loads((bundles / id / "config.json").read_bytes()) for id in (pod.id, pod.containers["main"])
            ]
            hand = ByHand(program, facts.platform, *configs)
            try:
                hand.image(str(bundles / pod.containers["main"] / "rootfs"))
                shutil.copy(shutil.which("catatonit") or "", hand.base / "image/catatonit")
                await pod.remove()
                failed = await compare(client, running, hand, hidden=facts.private_sysctls)
            finally:
                await asyncio.to_thread(hand.close)
            await churn(client, running)
    return failed


async def compare(client: cri.Client, running: node.Node, hand: ByHand, *, hidden: bool) -> int:
    ours, theirs, spent = [], [], []
    for _ in range(PAIRS):
        theirs.append(await asyncio.to_thread(hand.sample, hidden=hidden))
        before = own_ms(running)
        took, pod = await through_cri(client, running)
        ours.append(took)
        await pod.remove()
        spent.append(own_ms(running) - before)
    ratio = statistics.ratio(ours, theirs)
    cpu = sum(spent) / len(spent)
    print(f"pod to running: {plain.median(ours):.0f} ms through the CRI, {plain.median(theirs):.0f} ms by hand")
    print(f"ratio {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], bar {BAR}")
    print(f"the daemon's own processor time: {cpu:.1f} ms per pod, bar {CPU_BAR:g}")
    return int(ratio.value > BAR or cpu > CPU_BAR)


async def churn(client: cri.Client, running: node.Node) -> None:
    """What is left after them is the node's to find: closing it fails if there is anything."""
    before = time.perf_counter()
    left = iter(range(CHURN))

    async def work() -> None:
        for _ in left:
            _, pod = await through_cri(client, running)
            await pod.remove()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    state = os.fsencode(running.state)
    lines = {pid: process.command_line(pid) for pid in process.pids() if pid != running.pid}
    stay = [pid for pid, argv in lines.items() if any(state in one and b"runsc" in argv[0] for one in argv)]
    mounts = [one.target for one in mount.mounts() if str(running.state / "containers") in one.target]
    files = [*os.listdir(running.state / "containers"), *os.listdir(running.state / "runtimes/newer")]
    print(f"{CHURN} pods, {AT_ONCE} at once, in {time.perf_counter() - before:.0f} s; left: {stay + mounts + files}")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
    return asyncio.run(measure())
