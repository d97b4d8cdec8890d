"""The pool of pull workers: processes that fetch, digest, inflate and unpack, one job at a time each.

They are started on demand and leave after half a minute without work. A job that is cancelled takes its worker with
it: it may be waiting for a registry that never answers, and what it was writing is dropped by whoever gave it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import sys
from collections.abc import AsyncIterator, Callable

import msgspec

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import jobs
from ropewalk.linux import spawn

IDLE = 30.0  # seconds
KILLED = 5.0  # seconds a killed worker may need to be gone: longer only if the disk hangs
_PACKAGES = str(pathlib.Path(__file__).resolve().parents[2])  # the directory that holds the package ropewalk
_SOCKET = 3  # worker/main.py
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")

OnProgress = Callable[[int], None]


class _Lost(RopewalkError):
    kind = Kind.UNAVAILABLE


class _Worker:
    """One process and the daemon's end of its socket."""

    def __init__(self, process: spawn.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._killed = False
        self.leaving: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        return not self._killed and self._process.code is None and not self._reader.at_eof()

    async def run(self, job: jobs.Job, on_progress: OnProgress) -> jobs.Result:
        self._writer.write(jobs.encode(job))
        try:
            await self._writer.drain()
            while True:
                report = await self._read()
                if isinstance(report, jobs.Progress):
                    on_progress(report.fetched)
                elif isinstance(report, jobs.Failure):
                    raise report.error()
                else:
                    return report
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            code = await self._process.wait()
            raise _Lost(f"the pull worker ended with {code}", hint="it may have been killed; try again") from error

    async def _read(self) -> jobs.Report:
        (length,) = jobs.LENGTH.unpack(await self._reader.readexactly(jobs.LENGTH.size))
        if length > jobs.MAX_FRAME:
            raise self._garbled(f"a frame of {length} bytes")
        try:
            return jobs.decode_report(await self._reader.readexactly(length))
        except msgspec.MsgspecError as error:
            raise self._garbled("a frame that is no report") from error

    def _garbled(self, what: str) -> RopewalkError:
        """It waits for us, to read or to send: it would never end by itself."""
        self.kill()
        return RopewalkError(f"the pull worker sent {what}", kind=Kind.INTERNAL)

    def kill(self) -> None:
        self._killed = True
        self._process.kill()
        self.dismiss()

    def dismiss(self) -> None:
        """Close the socket: an idle worker leaves by itself."""
        if self.leaving is not None:
            self.leaving.cancel()
        self._writer.close()

    async def gone(self) -> None:
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Workers:
    """At most `limit` workers; jobs beyond that wait their turn."""

    def __init__(self, limit: int = 0, *, idle: float = IDLE) -> None:
        self._limit = limit or _usual()
        self._idle_time = idle
        self._turns = asyncio.Semaphore(self._limit)
        self._surplus = 0  # turns that are to vanish as they come free, after the limit was lowered
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._starting: set[asyncio.Task[None]] = set()

    @property
    def processes(self) -> int:
        return len(self._all)

    def resize(self, limit: int) -> None:
        """Another limit. A lower one ends no job: it holds once enough of them have ended."""
        limit = limit or _usual()
        more = limit - self._limit
        self._limit = limit
        kept = min(max(more, 0), self._surplus)
        self._surplus += max(-more, 0) - kept
        for _ in range(more - kept):
            self._turns.release()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._turns.acquire()
        while self._surplus:
            self._surplus -= 1
            await self._turns.acquire()
        try:
            yield
        finally:
            if self._surplus:
                self._surplus -= 1
            else:
                self._turns.release()

    def warm(self, count: int = 1) -> None:
        """Start workers for jobs that are about to come."""
        for _ in range(min(count, self._limit) - len(self._all) - len(self._starting)):
            task = asyncio.ensure_future(self._start_idle())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start_idle(self) -> None:
        with contextlib.suppress(OSError):  # the job that needs it will say why
            self._rest(await self._start())

    async def run(self, job: jobs.Job, on_progress: OnProgress | None = None) -> jobs.Result:
        """The answer to a job. Raises what the job failed with; cancelled: the worker is killed."""
        async with self._turn():
            worker = await self._take()
            try:
                result = await worker.run(job, on_progress or _ignore)
            except RopewalkError:
                self._rest(worker)
                raise
            except BaseException:
                self._drop(worker)
                worker.kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KILLED):  # nobody writes into what the caller is about to remove
                        await worker.gone()
                raise
            self._rest(worker)
            return result

    async def _take(self) -> _Worker:
        while self._starting and not self._idle:
            await asyncio.wait(set(self._starting), return_when=asyncio.FIRST_COMPLETED)
        while self._idle:
            worker = self._idle.pop()
            if worker.leaving is not None:
                worker.leaving.cancel()
            if worker.alive:
                return worker
            self._drop(worker)
        try:
            return await self._start()
        except OSError as error:
            raise RopewalkError(f"cannot start a pull worker: {error}", kind=Kind.UNAVAILABLE) from error

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = spawn.spawn(
                    [sys.executable, "-P", "-s", "-m", "ropewalk.images.worker.main"],
                    env=_environment(),
                    pass_fds={_SOCKET: theirs.fileno()},
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 20)
        worker = _Worker(process, reader, writer)
        self._all.add(worker)
        return worker

    def _rest(self, worker: _Worker) -> None:
        if not worker.alive:
            self._drop(worker)
            worker.kill()
            return
        worker.leaving = asyncio.get_running_loop().call_later(self._idle_time, self._retire, worker)
        self._idle.append(worker)

    def _retire(self, worker: _Worker) -> None:
        self._drop(worker)
        worker.dismiss()

    def _drop(self, worker: _Worker) -> None:
        self._all.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)

    async def close(self) -> None:
        """End every worker and wait until it is gone."""
        for task in self._starting:
            task.cancel()
        workers, self._idle, self._all = list(self._all), [], set()
        for worker in workers:
            worker.kill()
        for worker in workers:
            await worker.gone()


def _environment() -> dict[str, str]:
    """What a worker is started with: of the daemon's environment only how to reach registries."""
    reach = {name: os.environ[name] for name in PROXY_VARIABLES if name in os.environ}
    return {"PYTHONPATH": _PACKAGES, "PYTHONDONTWRITEBYTECODE": "1", **reach}


def _usual() -> int:
    return (os.cpu_count() or 1) + 1


def _ignore(fetched: int) -> None:
    del fetched
