"""A monitor at work on a shell script: launched, let go, its log and its end."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk import ids
from ropewalk.linux import process
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.monitors import attach, logfile
from ropewalk.runtimes.monitors.monitor import Launch, Monitor
from ropewalk.runtimes.streams import STDERR, STDOUT
from tests.fakes import runtime

LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9})(Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)", re.DOTALL)
Maker = Callable[..., "Script"]
STREAMS = {STDOUT: "stdout", STDERR: "stderr"}


class Line(NamedTuple):
    stream: str
    tag: str
    content: bytes


class Script:
    """A container that runs `payload`. `options` are those of Launch; `files`: of the bundle, see fakes/runtime.py."""

    def __init__(self, monitor: Monitor, directory: Path, payload: str, files: dict[str, str], **options: Any) -> None:
        self.monitor = monitor
        self.id = ids.new_id()
        self.bundle = directory / "bundles" / self.id
        self.bundle.mkdir(parents=True)
        for name, content in {"payload": payload, **files}.items():
            (self.bundle / name).write_text(content)
        os.mkfifo(self.bundle / "go")
        self.log_path = directory / "logs" / f"{self.id}.log"
        program = directory / "runtime"
        if not program.exists():
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {runtime.__file__} "$@"\n')
            program.chmod(0o755)
        prefix = [str(program), f"--root={self.bundle}"]
        if "gvisor" in files:
            options |= {"start_argv": [*prefix, "start", self.id], "wait_argv": [*prefix, "wait", self.id]}
        self.launch = Launch(
            id=self.id, bundle=str(self.bundle), runtime=prefix, cgroup="", log_path=str(self.log_path), **options
        )
        self.task = Task(0, 0)

    async def create(self) -> None:
        logfile.prepare(str(self.log_path))
        self.task = await self.monitor.create(self.launch)

    async def start(self) -> None:
        if self.launch.start_argv:
            await self.monitor.start(str(self.bundle), self.task)
        else:
            (self.bundle / "go").write_text("")

    async def end(self) -> int:
        """The exit code, once the monitor has ended."""
        pidfd = process.open_pidfd(self.task.monitor_pid, self.task.monitor_start)
        if pidfd is not None:
            try:
                async with asyncio.timeout(30):
                    await process.wait_pidfd(pidfd)
            finally:
                os.close(pidfd)
        exit = self.monitor.exit(self.id)
        assert exit is not None, "no exit file"
        return exit.code

    async def run(self) -> int:
        await self.create()
        await self.start()
        return await self.end()

    def attach(self) -> attach.Attachment:
        return attach.Attachment(str(self.bundle), self.task, self.end)

    async def reopen(self) -> None:
        await self.monitor.reopen_log(str(self.bundle), self.task, str(self.log_path))

    def log(self, path: Path | None = None) -> list[Line]:
        content = (path or self.log_path).read_bytes()
        assert not content or content.endswith(b"\n")
        lines = []
        for text in content[:-1].split(b"\n") if content else []:
            match = LINE.fullmatch(text)
            assert match, text[:200]
            lines.append(Line(match[3].decode(), match[4].decode(), match[5]))
        return lines

    async def logged(self, content: bytes) -> None:
        """Until the log has it."""
        seen = b""
        with self.log_path.open("rb") as file:
            async with asyncio.timeout(40):
                while content not in (seen := seen[-len(content) :] + file.read()):
                    await asyncio.sleep(0.01)


def written(lines: list[Line], stream: str = "stdout") -> bytes:
    """What the container wrote, from its log."""
    return b"".join(one.content + (b"\n" if one.tag == "F" else b"") for one in lines if one.stream == stream)


async def read_all(attached: attach.Attachment) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    while (chunk := await attached.read()) is not None:
        found[STREAMS[chunk.stream]] += chunk.data
    return found
