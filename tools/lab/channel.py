"""The host's end of the channel: streams to the guest's agent over the unix socket that QEMU serves for its port.

One thread reads; whoever runs a command waits on its stream's queue. A guest that reboots keeps the socket, so the
machine says hello again and every stream of the time before ends with Gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.lab import frames
from tools.lab.frames import Kind

BOOT_BYTES = 36
CHUNK = 32768
IN_FLIGHT = 4  # DATA frames that the guest has not passed on yet
LISTENING = 20.0  # seconds
HELLO_PAUSE = 0.1  # seconds between greetings while the guest boots

Output = Callable[[Kind, bytes], None]


class Gone(Exception):
    """The guest, or its agent, is another one than when the stream began, or there is none any more."""


class Failed(Exception):
    """A command ended with another code than 0."""


class Completed(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


class Stream:
    def __init__(self, channel: Channel, number: int) -> None:
        self.channel, self.number = channel, number
        self.frames: queue.Queue[frames.Frame | None] = queue.Queue()
        self._taken = threading.Semaphore(IN_FLIGHT)
        self._ended = False

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        self.channel.send(kind, self.number, payload)

    def write(self, data: bytes) -> None:
        """Standard input or socket; b"" ends it. Waits while the guest has enough to pass on."""
        for at in range(0, len(data) or 1, CHUNK):
            self._taken.acquire()
            if self._ended:
                return
            self.send(Kind.DATA, data[at : at + CHUNK])

    def deliver(self, frame: frames.Frame | None) -> None:
        if frame is not None and frame.kind == Kind.TAKEN:
            self._taken.release()
            return
        self.frames.put(frame)
        if frame is None or frame.kind == Kind.EXIT:
            self._ended = True
            self._taken.release()  # the writer, if one waits

    def receive(self, deadline: float | None = None) -> frames.Frame:
        try:
            frame = self.frames.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if frame is None:
            raise Gone("the guest has gone")
        return frame


def connect(to: socket.socket, path: Path) -> None:
    """QEMU binds its socket, and listens a moment later."""
    deadline = time.monotonic() + LISTENING
    while True:
        try:
            to.connect(str(path))
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


class Channel:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        connect(self._socket, path)
        self._turn = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._last = 0
        self._nonce = b""
        self._greeted: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def greet(self, deadline: float, *, other_than: str = "", alive: Callable[[], bool] = lambda: True) -> str:
        """Say hello until the guest's agent answers: its boot id. `other_than`: of a boot after this one."""
        self._forget()
        self._nonce = os.urandom(frames.NONCE_BYTES)
        while time.monotonic() < deadline and alive():
            self.send(Kind.HELLO, frames.GREETING, self._nonce)
            with contextlib.suppress(queue.Empty):
                boot = self._greeted.get(timeout=HELLO_PAUSE)
                if boot != other_than:
                    return boot
                time.sleep(HELLO_PAUSE)
        raise TimeoutError("the guest's agent does not answer")

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        with self._turn:
            self._socket.sendall(frames.encode(kind, stream, payload))

    def open(self, kind: Kind, payload: bytes) -> Stream:
        """A new stream. Gone if the machine's end of the channel is closed: QEMU has ended."""
        if not self._reader.is_alive():
            raise Gone("the VM has ended")
        with self._turn:
            self._last += 1
            stream = self._streams[self._last] = Stream(self, self._last)
        stream.send(kind, payload)
        return stream

    def _read(self) -> None:
        reader = frames.Reader(frames.NONCE_BYTES + BOOT_BYTES)
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 18):
                for frame in reader.feed(data):
                    self._take(frame)
        self._forget()

    def _take(self, frame: frames.Frame) -> None:
        if frame.kind == Kind.HELLO:
            if frame.payload.startswith(self._nonce):
                self._greeted.put(frame.payload[frames.NONCE_BYTES :].decode())
            return
        stream = self._streams.get(frame.stream)
        if stream is not None:
            if frame.kind == Kind.EXIT:
                del self._streams[frame.stream]
            stream.deliver(frame)

    def _forget(self) -> None:
        for number in list(self._streams):
            self._streams.pop(number).deliver(None)
        while not self._greeted.empty():
            self._greeted.get()

    # Commands.

    def start(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str = "", tty: list[int] | None = None
    ) -> Stream:
        request = {"argv": list(argv), "env": dict(env or {}), "cwd": cwd, "tty": tty}
        return self.open(Kind.EXEC, json.dumps(request).encode())

    def run(
        self,
        *argv: str | Path,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout: float = 60.0,
        check: bool = True,
        output: Output | None = None,
    ) -> Completed:
        """A command to its end. `output` is given what it writes as it comes, instead of it being collected. `check`:
        Failed unless its code is 0. TimeoutExpired, after SIGKILL, when it takes longer than `timeout` seconds."""
        words = [str(word) for word in argv]
        stream = self.start(words, env=env, cwd=cwd)
        threading.Thread(target=_feed, args=(stream, input), daemon=True).start()
        parts: dict[int, list[bytes]] = {Kind.STDOUT: [], Kind.STDERR: []}
        try:
            code = wait(stream, output or (lambda kind, data: parts[kind].append(data)), time.monotonic() + timeout)
        except TimeoutError:
            stream.send(Kind.SIGNAL, b"9")
            raise subprocess.TimeoutExpired(words, timeout, *map(b"".join, parts.values())) from None
        done = Completed(code, *map(b"".join, parts.values()))
        if check and code != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()[-3000:]
            raise Failed(f"{' '.join(words)[:300]}: exit {code}: {said}")
        return done


def _feed(stream: Stream, data: bytes) -> None:
    with contextlib.suppress(OSError):
        if data:
            stream.write(data)
        stream.write(b"")


def wait(stream: Stream, output: Output, deadline: float | None = None) -> int:
    """Pass a command's output on until it ends: its exit code, negative for a signal. OSError: it did not start."""
    while (frame := stream.receive(deadline)).kind != Kind.EXIT:
        output(Kind(frame.kind), frame.payload)
    end: dict[str, Any] = json.loads(frame.payload)
    if "error" in end:
        raise OSError(end["error"])
    return int(end["code"])
