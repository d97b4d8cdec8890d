"""An HTTP proxy in a thread that takes every connection to one place, whatever it was asked for."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """`host` is 127.0.0.1:<port>. `asked` has each CONNECT's target; `secret`: "user:password", if it wants one."""

    def __init__(self, target: str, *, secret: str = "") -> None:
        self.asked: list[str] = []
        address, _, port = target.rpartition(":")
        self.target = address, int(port)
        self.wanted = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret else ""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def running(target: str, *, secret: str = "") -> Iterator[Proxy]:
    proxy = Proxy(target, secret=secret)
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_CONNECT(self) -> None:
        proxy = self.server.proxy
        proxy.asked.append(self.path)
        if proxy.wanted and self.headers.get("Proxy-Authorization") != proxy.wanted:
            self.send_error(407)
            return
        with socket.create_connection(proxy.target) as onward:
            self.send_response(200)
            self.end_headers()
            _relay(self.connection, onward)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until one side ends."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            piece = ready.recv(65536)
            if not piece:
                return
            (other if ready is one else one).sendall(piece)
