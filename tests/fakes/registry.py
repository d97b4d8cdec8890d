"""A registry in a thread that serves what it is told to, and lies where a test makes it.

`script` sees every request first and may answer it itself, in any broken way; what it leaves is served truthfully.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ropewalk.images import jobs
from tests.fakes import oci


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names
    body: bytes


class Answer:
    """What a script answers with: methods of the connection, in any order that breaks a client."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bool:
        given = {"Content-Length": str(len(body)), **(headers or {})}
        self._handler.send_response(status)
        for name, value in given.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        if self._handler.command != "HEAD":
            self._handler.wfile.write(body)
        return True

    def cut(self) -> bool:
        """Close the connection here."""
        self._handler.wfile.flush()
        self._handler.close_connection = True
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(2)
        return True


Script = Callable[[Request, Answer], bool]


class Registry:
    """`host` is 127.0.0.1:<port>. `stop` ends whatever a script is waiting for."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}  # tag or digest -> (type, bytes)
        self.requests: list[Request] = []
        self.script: Script = lambda request, answer: False
        self.stopped = threading.Event()
        self._server = _Server(self)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "https" if context else "http"
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def add(self, tag: str, image: oci.Image) -> None:
        self.blobs.update(image.blobs)
        self.manifests[tag] = self.manifests[image.digest] = image.media_type, image.manifest

    def add_index(self, tag: str, data: bytes, media_type: str) -> None:
        self.manifests[tag] = self.manifests[oci.sha256(data)] = media_type, data

    def source(self, **more: object) -> jobs.Source:
        """This registry as a worker is told of it."""
        defaults: dict[str, object] = {"hosts_directories": [], "stall": 5.0}
        return jobs.Source(registry=self.host, repository="test/image", **{**defaults, **more})  # type: ignore[arg-type]

    def asked(self, method: str = "GET", ending: str = "") -> list[Request]:
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def close(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, request: Request, answer: Answer) -> bool:
        """The truth."""
        kind, _, name = request.path.removeprefix("/v2/").rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            media_type, data = self.manifests[name]
            return answer.send(200, data, {"Content-Type": media_type, "Docker-Content-Digest": oci.sha256(data)})
        if kind.endswith("/blobs") and name in self.blobs:
            data, start = self.blobs[name], request.headers.get("range", "")
            if start:
                at = int(start.removeprefix("bytes=").rstrip("-"))
                return answer.send(206, data[at:], {"Content-Range": f"bytes {at}-{len(data) - 1}/{len(data)}"})
            return answer.send(200, data, {"Content-Type": "application/octet-stream"})
        return answer.send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')


@contextlib.contextmanager
def running(*, context: ssl.SSLContext | None = None) -> Iterator[Registry]:
    registry = Registry(context=context)
    try:
        yield registry
    finally:
        registry.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave when they please, and tests break connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _handle(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body)
        registry = self.server.registry
        registry.requests.append(request)
        answer = Answer(self)
        if not registry.script(request, answer):
            registry.serve(request, answer)

    do_GET = do_HEAD = do_POST = _handle  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
