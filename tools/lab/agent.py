"""In the guest: runs the host's commands and connects it to unix sockets, over a virtio-serial port.

Needs nothing but the standard library: the image holds this file, frames.py, and a unit that starts it.
A lost host (another one may come) ends what it had started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

from tools.lab import frames
from tools.lab.frames import Kind

PORT = "/dev/virtio-ports/ropewalk.lab"
CHUNK = 32768
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SHELL": "/bin/bash",
}


class Port:
    """The channel's guest end. Writers of any thread take turns."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._turn = threading.Lock()

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        data = memoryview(frames.encode(kind, stream, payload))
        with self._turn:
            while data:
                data = data[os.write(self.fd, data) :]

    def receive(self) -> bytes:
        """b"" while no host is connected."""
        return os.read(self.fd, CHUNK)


class Stream:
    """One command or connection: `given` holds what the host sent, in order; None ends the thread that passes it on."""

    def __init__(self, port: Port, number: int) -> None:
        self.port, self.number = port, number
        self.given: queue.Queue[bytes | None] = queue.Queue()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        self.port.send(kind, self.number, payload)

    def pass_on(self, fd: int, end: Any) -> None:
        """Write what is given to `fd` until the end; `end()` then closes that direction."""
        while data := self.given.get():
            with contextlib.suppress(OSError):  # whoever read it has gone; the host may send what it likes
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
            self.send(Kind.TAKEN)
        with contextlib.suppress(OSError):
            end()
        self.send(Kind.TAKEN)

    def copy(self, fd: int, kind: Kind) -> None:
        """From `fd` to the host until its end (a terminal's end is EIO)."""
        with contextlib.suppress(OSError):
            while data := os.read(fd, CHUNK):
                self.send(kind, data)


class Command(Stream):
    def __init__(self, port: Port, number: int, request: dict[str, Any]) -> None:
        super().__init__(port, number)
        self.terminal = -1
        argv, tty = request["argv"], request.get("tty")
        options: dict[str, Any] = {
            "env": {**ENVIRONMENT, **(request.get("env") or {})},
            "cwd": request.get("cwd") or "/root",
        }
        if tty:
            self.terminal, inner = os.openpty()
            self.resize(tty)
            argv = ["setsid", "--ctty", "--wait", *argv]
            self.process = subprocess.Popen(argv, stdin=inner, stdout=inner, stderr=inner, **options)
            os.close(inner)
        else:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, **options
            )

    def run(self) -> None:
        streams = self.process.stdin, self.process.stdout, self.process.stderr
        if self.terminal >= 0:
            outputs = [(self.terminal, Kind.STDOUT)]
            threading.Thread(target=self.pass_on, args=(self.terminal, self.end_of_file), daemon=True).start()
        else:
            given, out, err = (stream for stream in streams if stream is not None)
            outputs = [(out.fileno(), Kind.STDOUT), (err.fileno(), Kind.STDERR)]
            threading.Thread(target=self.pass_on, args=(given.fileno(), given.close), daemon=True).start()
        copies = [threading.Thread(target=self.copy, args=output, daemon=True) for output in outputs]
        for thread in copies:
            thread.start()
        code = self.process.wait()
        deadline = time.monotonic() + 2  # a daemon that it left behind may hold the pipes for ever
        for thread in copies:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.send(Kind.EXIT, json.dumps({"code": code}).encode())
        self.given.put(None)
        if self.terminal >= 0:
            os.close(self.terminal)

    def end_of_file(self) -> None:
        os.write(self.terminal, b"\x04")

    def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, number)

    def resize(self, size: list[int]) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        self.given.put(None)


class Connection(Stream):
    def __init__(self, port: Port, number: int, path: str) -> None:
        super().__init__(port, number)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)

    def run(self) -> None:
        fd = self.socket.fileno()
        writer = threading.Thread(target=self.pass_on, args=(fd, self.finish), daemon=True)
        writer.start()
        self.copy(fd, Kind.DATA)
        self.send(Kind.DATA)
        writer.join()
        self.socket.close()
        self.send(Kind.EXIT, b'{"code": 0}')

    def finish(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.given.put(None)


class Agent:
    def __init__(self, port: Port) -> None:
        self.port = port
        self.host = b""
        self.streams: dict[int, Command | Connection] = {}
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()

    def serve(self) -> None:
        reader = frames.Reader(frames.NONCE_BYTES)
        while True:
            data = self.port.receive()
            if not data:
                self.forget()
                reader.reset()
                time.sleep(0.05)
            for frame in reader.feed(data):
                self.take(frame)

    def take(self, frame: frames.Frame) -> None:
        stream = self.streams.get(frame.stream)
        if frame.kind == Kind.HELLO:
            if frame.payload != self.host:
                self.forget()
            self.host = frame.payload
            self.port.send(Kind.HELLO, frames.GREETING, frame.payload + self.boot)
        elif frame.kind in (Kind.EXEC, Kind.CONNECT):
            self.begin(frame)
        elif stream is None:  # it has ended meanwhile
            if frame.kind == Kind.DATA:
                self.port.send(Kind.TAKEN, frame.stream)
        elif frame.kind == Kind.DATA:
            stream.given.put(frame.payload)
        elif isinstance(stream, Command):
            if frame.kind == Kind.SIGNAL:
                stream.signal(int(frame.payload))
            elif frame.kind == Kind.RESIZE:
                stream.resize(json.loads(frame.payload))

    def begin(self, frame: frames.Frame) -> None:
        try:
            made: Command | Connection
            if frame.kind == Kind.EXEC:
                made = Command(self.port, frame.stream, json.loads(frame.payload))
            else:
                made = Connection(self.port, frame.stream, frame.payload.decode())
        except (OSError, ValueError, KeyError) as error:
            self.port.send(Kind.EXIT, frame.stream, json.dumps({"error": str(error)}).encode())
            return
        self.streams[frame.stream] = made
        threading.Thread(target=self.run, args=(made,), daemon=True).start()

    def run(self, stream: Command | Connection) -> None:
        stream.run()
        self.streams.pop(stream.number, None)

    def forget(self) -> None:
        for stream in list(self.streams.values()):
            stream.close()


if __name__ == "__main__":
    Agent(Port(sys.argv[1] if len(sys.argv) > 1 else PORT)).serve()
