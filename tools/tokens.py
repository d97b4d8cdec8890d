"""An authorization server for a test registry (distribution: "Token Authentication"): bearer tokens by GET and POST.

A token is a JWT signed with the key whose certificate the registry trusts (header x5c), valid for a minute.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tools import debian

SERVICE = "ropewalk test registry"
ISSUER = "ropewalk test issuer"
LIFETIME = 60  # seconds


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Listens on loopback as soon as it is made. `user`: who gets tokens; None: anybody. `asked` counts requests."""

    def __init__(self, directory: Path, user: tuple[str, str] | None) -> None:
        self.user = user
        self.asked = 0
        self.certificate, self._key = directory / "token.crt", directory / "token.key"
        debian.run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ropewalk tokens",
            "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip
        lines = self.certificate.read_text().splitlines()
        self._x5c = "".join(line for line in lines if not line.startswith("-"))
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                server.answer(self, parse_qs(body.decode()))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/token"

    def configuration(self) -> dict[str, Any]:
        """The registry's `auth` section."""
        trust = {"service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self.certificate)}
        return {"token": {"realm": self.url, **trust}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        self.asked += 1
        status, document = 200, {}
        if self._is_known(request.headers.get("Authorization", ""), query):
            token = self._token(query.get("scope", []))
            document = {"token": token, "access_token": token, "expires_in": LIFETIME}
        else:
            status, document = 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong name or password"}]}
        body = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _is_known(self, authorization: str, query: dict[str, list[str]]) -> bool:
        """Basic authentication of a GET; password grant, or refresh token `name:password`, of a POST."""
        if self.user is None:
            return True
        pair = ":".join(self.user)
        given = f"{query.get('username', [''])[0]}:{query.get('password', [''])[0]}"
        refresh = query.get("refresh_token", [""])[0]
        return pair in (given, refresh) or authorization == f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _token(self, scopes: list[str]) -> str:
        access = []
        for scope in " ".join(scopes).split():
            kind, name, actions = (
                scope.split(":", 1)[0],
                scope.split(":", 1)[1].rsplit(":", 1)[0],
                scope.rsplit(":", 1)[1],
            )
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._x5c]}
        claims = {
            "iss": ISSUER, "sub": "", "aud": SERVICE, "iat": now, "nbf": now - 5, "exp": now + LIFETIME,
            "jti": uuid.uuid4().hex, "access": access,
        }  # fmt: skip
        text = f"{_part(json.dumps(header).encode())}.{_part(json.dumps(claims).encode())}"
        sign = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        return f"{text}.{_part(subprocess.run(sign, input=text.encode(), capture_output=True, check=True).stdout)}"
