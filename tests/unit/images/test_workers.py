"""The pool: real worker processes, and what happens to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import jobs, workers
from ropewalk.images.descriptor import Platform
from ropewalk.spec.image import AuthConfig
from tests.fakes import oci
from tests.fakes import registry as fakes

IMAGE = oci.Image([oci.layer([oci.File("a", b"a")])])
AUTH = AuthConfig(username="user", password="s3cret-in-memory")


@pytest.fixture
def fake() -> Iterator[fakes.Registry]:
    with fakes.running() as registry:
        registry.add("1", IMAGE)
        yield registry


@pytest.fixture
async def pool() -> AsyncIterator[workers.Workers]:
    pool = workers.Workers(2, idle=60)
    yield pool
    await pool.close()


def resolve(fake: fakes.Registry, target: str = "1") -> jobs.Resolve:
    return jobs.Resolve(fake.source(auth=AUTH), target, Platform("linux", "amd64"))


def processes() -> list[Path]:
    """Worker processes of this test."""
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"ropewalk.images.worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(Path(f"/proc/{pid}"))
    return found


async def eventually(no_more_than: int) -> None:
    async with asyncio.timeout(10):
        while len(processes()) > no_more_than:
            await asyncio.sleep(0.01)


async def test_a_worker_serves_job_after_job_and_failures_do_not_end_it(
    fake: fakes.Registry, pool: workers.Workers
) -> None:
    for _ in range(2):
        result = await pool.run(resolve(fake))
        assert isinstance(result, jobs.Resolved)
        assert result.config_digest == IMAGE.id
        with pytest.raises(RopewalkError) as caught:
            await pool.run(resolve(fake, "absent"))
        assert caught.value.kind is Kind.NOT_FOUND
    assert len(processes()) == pool.processes == 1


async def test_jobs_beyond_the_limit_wait(fake: fakes.Registry, pool: workers.Workers) -> None:
    results = await asyncio.gather(*(pool.run(resolve(fake)) for _ in range(6)))
    assert len(results) == 6
    assert pool.processes == 2


async def test_another_limit_holds_from_the_next_jobs_on() -> None:
    """A lower one ends nobody; a higher one lets those in that wait."""
    pool = workers.Workers(2)
    running = 0
    ends = [asyncio.Event() for _ in range(12)]

    async def job(end: asyncio.Event) -> None:
        nonlocal running
        async with pool._turn():
            running += 1
            await end.wait()
            running -= 1

    async def settled() -> int:
        for _ in range(20):
            await asyncio.sleep(0)
        return running

    tasks = [asyncio.create_task(job(end)) for end in ends]
    assert await settled() == 2
    pool.resize(4)
    assert await settled() == 4
    pool.resize(1)
    assert await settled() == 4
    for end, left in zip(ends[:6], (3, 2, 1, 1, 1, 1), strict=True):
        end.set()
        assert await settled() == left
    pool.resize(3)
    pool.resize(2)
    pool.resize(5)
    assert await settled() == 5
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)
    pool.resize(1)
    ends = [asyncio.Event() for _ in range(3)]
    tasks = [asyncio.create_task(job(end)) for end in ends]
    assert await settled() == 1
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)


async def test_hosts_are_read_for_every_job(fake: fakes.Registry, pool: workers.Workers, tmp_path: Path) -> None:
    """hosts.toml needs no reload: the same worker sees what it says now."""
    (tmp_path / "example.test").mkdir()
    file = tmp_path / "example.test/hosts.toml"
    source = jobs.Source("example.test", "test/image", [str(tmp_path)], stall=5.0)
    for text, works in (("[", False), (f'server = "http://{fake.host}"\n', True), ("server = 7", False)):
        file.write_text(text)
        job = pool.run(jobs.Resolve(source, "1", Platform("linux", "amd64")))
        if works:
            assert isinstance(await job, jobs.Resolved)
        else:
            with pytest.raises(RopewalkError, match=r"hosts.toml"):
                await job
    assert len(processes()) == 1


async def test_a_cancelled_job_takes_its_worker_with_it(fake: fakes.Registry, pool: workers.Workers) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(request: fakes.Request, answer: fakes.Answer) -> bool:
        loop.call_soon_threadsafe(asked.set)
        return fake.stopped.wait(10) or answer.cut()

    fake.script = script
    job = asyncio.ensure_future(pool.run(resolve(fake)))
    await asked.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert processes() == []
    assert pool.processes == 0
    fake.script = lambda request, answer: False
    assert isinstance(await pool.run(resolve(fake)), jobs.Resolved)


async def test_a_worker_that_is_killed_is_an_error_and_is_replaced(fake: fakes.Registry, pool: workers.Workers) -> None:
    await pool.run(resolve(fake))

    def script(request: fakes.Request, answer: fakes.Answer) -> bool:
        os.kill(int(processes()[0].name), 9)
        return answer.cut()

    fake.script = script
    with pytest.raises(RopewalkError, match="ended with -9") as caught:
        await pool.run(resolve(fake))
    assert caught.value.kind is Kind.UNAVAILABLE
    fake.script = lambda request, answer: False
    assert isinstance(await pool.run(resolve(fake)), jobs.Resolved)


async def test_idle_workers_leave(fake: fakes.Registry) -> None:
    pool = workers.Workers(2, idle=0.05)
    pool.warm(2)
    await pool.run(resolve(fake))
    await eventually(0)
    assert pool.processes == 0
    assert isinstance(await pool.run(resolve(fake)), jobs.Resolved)
    await pool.close()


async def test_credentials_are_in_no_argument_and_no_environment(fake: fakes.Registry, pool: workers.Workers) -> None:
    seen: list[bytes] = []

    def script(request: fakes.Request, answer: fakes.Answer) -> bool:
        for process in processes():
            seen.extend((process / name).read_bytes() for name in ("cmdline", "environ"))
        return "authorization" not in request.headers and answer.send(401, headers={"WWW-Authenticate": "Basic"})

    fake.script = script
    assert isinstance(await pool.run(resolve(fake)), jobs.Resolved)
    assert len(seen) >= 2
    assert not any(b"s3cret" in text for text in seen)


async def test_a_worker_ends_with_its_daemon_even_in_the_middle_of_a_job(
    fake: fakes.Registry, pool: workers.Workers
) -> None:
    fake.script = lambda request, answer: fake.stopped.wait(10) or answer.cut()
    job = asyncio.ensure_future(pool.run(resolve(fake)))
    async with asyncio.timeout(10):
        while not fake.requests:
            await asyncio.sleep(0.01)
    (worker,) = pool._all
    worker._writer.transport.abort()  # what the kernel does to the socket of a daemon that was killed
    await eventually(0)
    with pytest.raises(RopewalkError):
        await job


async def test_a_job_imports_neither_asyncio_nor_grpc_nor_sqlite(fake: fakes.Registry, pool: workers.Workers) -> None:
    await pool.run(resolve(fake))
    mapped = (processes()[0] / "maps").read_text()
    assert "igzip_lib" in mapped
    for module in ("_asyncio", "cygrpc", "_sqlite3"):
        assert module not in mapped


async def test_a_worker_has_a_limit_of_memory(fake: fakes.Registry, pool: workers.Workers) -> None:
    await pool.run(resolve(fake))
    limits = (processes()[0] / "limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max data size")]
    assert line.split()[3:5] == [str(1 << 30), str(1 << 30)]


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_FRAME", 100), ("decode_report", msgspec.msgpack.Decoder(int).decode)]
)
async def test_a_worker_that_answers_nonsense_is_ended(
    fake: fakes.Registry, pool: workers.Workers, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """It waits to be read, or for the next job: whoever waits for it to end by itself waits for ever."""
    monkeypatch.setattr(jobs, name, value)
    async with asyncio.timeout(10):
        with pytest.raises(RopewalkError, match="the pull worker sent a frame"):
            await pool.run(resolve(fake))
        while processes():
            await asyncio.sleep(0.01)
    assert pool.processes == 0


async def test_closing_waits_for_every_process(fake: fakes.Registry) -> None:
    pool = workers.Workers(2)
    await asyncio.gather(*(pool.run(resolve(fake)) for _ in range(3)))
    async with asyncio.timeout(20):
        await pool.close()
    assert processes() == []


async def test_a_worker_knows_of_the_environment_only_how_to_reach_registries(
    pool: workers.Workers, fake: fakes.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("ROPEWALK_SECRET", "x")
    await pool.run(resolve(fake))
    (worker,) = pool._all
    with open(f"/proc/{worker._process.pid}/environ", "rb") as file:
        names = {entry.partition(b"=")[0] for entry in file.read().split(b"\0")}
    assert b"NO_PROXY" in names
    assert b"ROPEWALK_SECRET" not in names
