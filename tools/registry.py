"""Debian's docker-registry (the distribution project's) on a free port of loopback, for as long as a `with` lasts.

What it served, and to whom, is read from its own access log: a second opinion on what a pull transferred.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tools import debian, tokens

ADDRESS = "127.0.0.1"
# The common log format: host, identity, user, time, request line, status, bytes, ...
LINE = re.compile(r'^\S+ \S+ \S+ \[[^]]*\] "(?P<method>\S+) (?P<path>\S+) [^"]*" (?P<status>\d+) (?P<bytes>\d+)')


class Request(NamedTuple):
    method: str
    path: str
    status: int
    size: int  # bytes of the answer's body


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        port: int = listener.getsockname()[1]
        return port


def clone_storage(seed: Path, target: Path) -> None:
    """A registry's storage to write to: blobs, which are never rewritten, as hard links where that is possible."""

    def copy(source: str, destination: str) -> str:
        if source.endswith("/data"):
            try:
                os.link(source, destination)
                return destination
            except OSError:
                pass  # another file system
        return shutil.copy2(source, destination)

    shutil.copytree(seed, target, copy_function=copy)


class Registry:
    """`seed`: start with a copy of this storage; `storage`: use this directory itself; neither: start empty.

    `tls`: HTTPS with a certificate of a private authority, `authority` is its certificate's path.
    `user`: (name, password) that every request must carry (basic authentication); with `bearer`, that only who asks
    for a token must carry, as on public registries. `bearer` without a user: anonymous tokens.
    """

    def __init__(
        self,
        program: Path,
        *,
        seed: Path | None = None,
        storage: Path | None = None,
        tls: bool = False,
        user: tuple[str, str] | None = None,
        bearer: bool = False,
    ) -> None:
        self.program, self.seed, self.tls, self.user = program, seed, tls, user
        self.directory = Path(tempfile.mkdtemp(prefix="ropewalk-registry-", dir="/var/tmp"))
        self.storage = storage or self.directory / "storage"
        self.authority = self.directory / "authority.crt"
        self.tokens = tokens.TokenServer(self.directory, user) if bearer else None
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"{ADDRESS}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the registry is not running"
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        if self.seed is not None:
            clone_storage(self.seed, self.storage)
        if self.tls:
            self._make_certificates()
        self.port = free_port()
        configuration = self.directory / "config.json"
        configuration.write_text(json.dumps(self._configuration()))
        with (self.directory / "access.log").open("ab") as access, (self.directory / "registry.log").open("ab") as log:
            command = [str(self.program), "serve", str(configuration)]
            environment = {"PATH": os.environ.get("PATH", ""), "OTEL_TRACES_EXPORTER": "none"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=access, stderr=log, env=environment
            )
        self._wait_ready()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self.tokens is not None:
            self.tokens.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _configuration(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "of no consequence on loopback"}
        if self.tls:
            http["tls"] = {"certificate": str(self.directory / "server.crt"), "key": str(self.directory / "server.key")}
        configuration: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}},
            "http": http,
        }
        if self.tokens is not None:
            configuration["auth"] = self.tokens.configuration()
        elif self.user is not None:
            passwords = self.directory / "htpasswd"
            passwords.write_text(debian.run("htpasswd", "-nbB", "-C", "4", *self.user))
            configuration["auth"] = {"htpasswd": {"realm": "ropewalk", "path": str(passwords)}}
        return configuration

    def _make_certificates(self) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        authority_key = self.directory / "authority.key"
        debian.run(
            "openssl", "req", "-x509", *key, "-subj", "/CN=ropewalk test authority",
            "-keyout", authority_key, "-out", self.authority,
        )  # fmt: skip
        debian.run(
            "openssl", "req", "-x509", *key, "-subj", "/CN=ropewalk test registry",
            "-CA", self.authority, "-CAkey", authority_key,
            "-addext", f"subjectAltName=IP:{ADDRESS},DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", self.directory / "server.key", "-out", self.directory / "server.crt",
        )  # fmt: skip

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex((ADDRESS, self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"the registry does not answer on {self.host}: {self.log()}")

    def log(self) -> str:
        return (self.directory / "registry.log").read_text(errors="replace")

    def requests(self) -> list[Request]:
        """What was asked and answered so far."""
        found = []
        for line in (self.directory / "access.log").read_text(errors="replace").splitlines():
            if match := LINE.match(line):
                found.append(Request(match["method"], match["path"], int(match["status"]), int(match["bytes"])))
        return found

    def blob_bytes(self, repository: str = "") -> int:
        """Bytes of blobs that it sent, of one repository or of all."""
        prefix = f"/v2/{repository}/blobs/" if repository else "/v2/"
        return sum(
            request.size
            for request in self.requests()
            if request.method == "GET" and request.path.startswith(prefix) and "/blobs/sha256:" in request.path
        )

    def push(self, layout: Path, reference: str, name: str = "", format: str = "") -> None:
        """An image of an OCI layout; `name` (repository:tag) defaults to the reference without its registry. `format`
        (v2s2) converts it, otherwise every byte and digest stays."""
        target = f"docker://{self.host}/{name or reference.partition('/')[2]}"
        credentials = (f"--dest-creds={':'.join(self.user)}",) if self.user else ()
        form = (f"--format={format}",) if format else ("--all", "--preserve-digests")
        debian.run(
            "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *form, *credentials,
            f"oci:{layout}:{reference}", target,
        )  # fmt: skip

    def catalogue(self) -> list[str]:
        """Its repositories (anonymous plain HTTP only)."""
        with urllib.request.urlopen(f"{self.url}/v2/_catalog?n=1000") as answer:
            names: list[str] = json.load(answer)["repositories"]
            return names
