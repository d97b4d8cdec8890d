"""demo: real pods through the CRI on a private node: run, fetch a page, exec, logs, stats, kill -9, and the same pod on
every runtime that works here; two tables.

Everything it shows is also checked: a page that is not nginx's, a line lost over the kill, or anything left on the
machine afterwards ends it with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropewalk.client import cri
from ropewalk.spec import image, pod
from tools import images, node, registry, runtimes, workload

NEWLINE = "\n"
COUNT = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"


@dataclass
class Phase:
    """One row of the table."""

    name: str
    by_hand: str
    seconds: float = 0.0
    seen: str = ""


@dataclass
class Story:
    """The rows so far; each is said when it is done."""

    phases: list[Phase] = field(default_factory=list)
    rows: list[runtimes.Row] = field(default_factory=list)  # of runtimes

    @contextlib.contextmanager
    def phase(self, name: str, by_hand: str) -> Iterator[Phase]:
        phase = Phase(name, by_hand)
        print(f"· {name} ... ", end="", flush=True)
        start = time.perf_counter()
        yield phase
        phase.seconds = time.perf_counter() - start
        self.phases.append(phase)
        print(f"{phase.seconds:.3f} s  {phase.seen}", flush=True)

    def tables(self) -> None:
        rows = [(phase.name, f"{phase.seconds:.3f}", phase.seen, phase.by_hand) for phase in self.phases]
        draw("Ropewalk", ("what", "seconds", "seen", "by hand"), rows, numbers={"seconds"})
        print()
        numbers = {"running after", "memory"}
        draw("The same pod on each runtime", runtimes.HEADS, [row.cells() for row in self.rows], numbers=numbers)


def draw(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: set[str]) -> None:
    """A table, with lines if a terminal is there."""
    if sys.stdout.isatty():
        from rich import console, table

        drawn = table.Table(title=title, title_justify="left")
        for head in heads:
            drawn.add_column(head, justify="right" if head in numbers else "left", overflow="fold")
        for row in rows:
            drawn.add_row(*row)
        console.Console().print(drawn)
        return
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads) - 1)]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())


def fetch(url: str) -> str:
    """The title of a page."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = re.search(r"<title>(.*?)</title>", answer.read().decode())
    assert found, f"{url} is not the page that was expected"
    return found[1]


async def page(url: str) -> str:
    """The page's title, as soon as the server answers."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await asyncio.to_thread(fetch, url)
            except OSError:
                await asyncio.sleep(0.01)


async def pull(story: Story, client: cri.Client, served: registry.Registry) -> None:
    with story.phase("pull two images", "ropewalk pull busybox; ropewalk pull nginx") as phase:
        await asyncio.gather(*(client.pull(image.ImageSpec(image=name)) for name in (images.BUSYBOX, images.NGINX)))
        phase.seen = f"{len(await client.images())} images, {served.blob_bytes() / 1e6:.1f} MB from the registry"


async def hello(story: Story, client: cri.Client, logs: Path) -> None:
    with story.phase("hello pod", "ropewalk run busybox echo hello") as phase:
        greeting = await workload.run_pod(client, workload.pod_spec("hello", logs=logs))
        status = await greeting.exited(await greeting.start("main", "echo", "hello"))
        assert greeting.output() == "hello\n", greeting.log()
        phase.seen = f"{greeting.output().strip()!r}, exit code {status.exit_code} ({status.reason})"


async def web(story: Story, client: cri.Client, logs: Path) -> tuple[workload.Pod, str]:
    """The web pod, and the URL of its host port."""
    port = registry.free_port()
    mapping = pod.PortMapping(container_port=80, host_port=port)
    with story.phase("web pod", f"ropewalk run -d -p {port}:80 --name web nginx") as phase:
        server = await workload.run_pod(client, workload.pod_spec("web", logs=logs, port_mappings=[mapping]))
        id = await server.start(reference=images.NGINX)
        ip = await server.ip()
        phase.seen = f"container {id[:12]} at {ip}"
    with story.phase("fetch over the pod network", f"curl http://{ip}/") as phase:
        phase.seen = await page(f"http://{ip}/")
    url = f"http://127.0.0.1:{port}/"
    with story.phase("fetch over the host port", f"curl {url}") as phase:
        phase.seen = await page(url)
    return server, url


async def look(story: Story, client: cri.Client, server: workload.Pod) -> None:
    id = server.containers["main"]
    with story.phase("exec", "ropewalk exec web nginx -v") as phase:
        result = await client.exec_sync(id, ["nginx", "-v"], timeout=10)
        phase.seen = (result.stdout + result.stderr).decode().strip()
        assert result.exit_code == 0, phase.seen
    with story.phase("logs", "ropewalk logs web") as phase:
        lines = (await server.says("GET / ")).splitlines()
        phase.seen = f"{len(lines)} lines; {lines[0].split('] ')[-1][:20]}"
    with story.phase("stats", "ropewalk stats --no-stream") as phase:
        (stats,) = await client.container_stats(id=id)
        assert stats.cpu is not None
        assert stats.memory is not None
        cpu, memory = stats.cpu.usage_core_nano_seconds or 0, stats.memory.working_set_bytes or 0
        phase.seen = f"{cpu / 1e6:.1f} ms of CPU, {memory / 1e6:.1f} MB in memory"


async def kill(story: Story, private: node.Node, server: workload.Pod, url: str) -> None:
    """kill -9 between two lines of a container; the next daemon knows everything, and no line is lost or doubled."""
    async with private.client() as client:
        counter = await workload.run_pod(client, workload.pod_spec("counter", logs=private.logs))
        await counter.start("main", "sh", "-c", COUNT)
        await counter.says("line 5\n")
        before = {item.id: item.state for item in await client.containers()}
    with story.phase("kill -9 the daemon", f"kill -9 {private.pid}") as phase:
        private.kill()
        phase.seen = f"without it: {await page(url)}"
    with story.phase("start it again", "ropewalk serve") as phase:
        await private.start()
        async with private.client() as client:
            after = {item.id: item.state for item in await client.containers()}
        assert after == before, f"before the kill {before}, after it {after}"
        phase.seen = f"ready, and knows its {len(after)} containers"
    with story.phase("nothing was lost", "ropewalk logs -f counter; ropewalk exec web ...") as phase:
        await counter.says(f"line {counter.output().count(NEWLINE) + 5}\n")
        numbers = [int(line.split()[1]) for line in counter.output().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), "a log line was lost or doubled"
        async with private.client() as client:
            result = await client.exec_sync(server.containers["main"], ["cat", "/proc/1/comm"], timeout=10)
        running = result.stdout.decode().strip()
        assert running == "nginx", f"the web container's first process is {running!r}"
        phase.seen = f"{len(numbers)} log lines, each once; {running} still runs"


async def compare(story: Story, private: node.Node) -> None:
    async with private.client() as client:
        for runtime in await runtimes.working(private.address):
            by_hand = f"ropewalk run --runtime {runtime.name} busybox uname -sr"
            with story.phase(f"the same pod on {runtime.name}", by_hand) as phase:
                row = await runtimes.compare(client, runtime, private.logs)
                story.rows.append(row)
                phase.seen = f"{row.kernel}, {row.boundary}"


async def remove(story: Story, private: node.Node) -> None:
    with story.phase("stop and remove everything", "ropewalk rm -f --all") as phase:
        async with private.client() as client:
            count = len(await client.pods())
            await workload.remove_everything(client)
            phase.seen = f"{count} pods gone, {len(await client.pods())} left"


async def demonstrate(story: Story) -> None:
    with node.serving() as served:
        private = node.Node(served)
        try:
            with story.phase("start the daemon", "ropewalk serve") as phase:
                await private.start()
                async with private.client() as client:
                    version = await client.version()
                phase.seen = f"{version.runtime_name} {version.runtime_version}, ready"
            async with private.client() as client:
                await pull(story, client, served)
                await hello(story, client, private.logs)
                server, url = await web(story, client, private.logs)
                await look(story, client, server)
            await kill(story, private, server, url)
            await compare(story, private)
            await remove(story, private)
        except node.DidNotStart:
            raise
        except Exception:
            print(f"\nthe end of the daemon's log:\n{private.log(60)}\n", file=sys.stderr)
            raise
        finally:
            await private.close()


def main() -> int:
    start = time.perf_counter()
    story = Story()
    try:
        asyncio.run(demonstrate(story))  # fails if anything of the node is left
    except node.DidNotStart as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print()
    story.tables()
    print("\nNothing is left: no mount, namespace, cgroup, link, nftables table, process or file.")
    print(f"{time.perf_counter() - start:.1f} s in all. `./dev node` starts such a node with a shell.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
