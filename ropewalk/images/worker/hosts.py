"""Which hosts serve a registry: containerd's certs.d (docs/hosts.md), Docker's as the fallback.

`<directory>/<registry>/hosts.toml` lists mirrors in order and the server itself last. Without a file: the registry,
by HTTPS, or by plain HTTP where its name is loopback. The reference keeps its canonical name either way.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, field

from ropewalk.errors import Invalid
from ropewalk.images.reference import DOCKER_HUB

DOCKER_HUB_HOST = "registry-1.docker.io"
PULL, RESOLVE = "pull", "resolve"
_KNOWN_KEYS = frozenset(
    ("capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "server", "host")
)


class Host(Struct, frozen=True):
    """One place to ask. `url` ends with the API root: "https://mirror.example/v2"."""

    url: str
    capabilities: list[str] = field(default_factory=lambda: [PULL, RESOLVE])
    ca: list[str] = field(default_factory=list)  # PEM files
    client: list[tuple[str, str]] = field(default_factory=list)  # (certificate, key or "")
    skip_verify: bool = False
    headers: list[tuple[str, str]] = field(default_factory=list)
    dial_timeout: float = 10.0
    upstream: bool = True  # the registry itself, not a mirror of it

    @property
    def name(self) -> str:
        """host[:port]."""
        return urlsplit(self.url).netloc

    @property
    def secure(self) -> bool:
        return self.url.startswith("https:")


def is_loopback(host: str) -> bool:
    """localhost, 127/8 or ::1, with or without a port."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def upstream_name(registry: str) -> str:
    return DOCKER_HUB_HOST if registry == DOCKER_HUB else registry


def read_hosts(registry: str, directories: Iterable[str]) -> list[Host]:
    """Mirrors in order, then the registry itself. Raises Invalid for a file that does not parse."""
    found = _find(registry, directories)
    if found is None:
        return [_upstream(registry)]
    file = os.path.join(found, "hosts.toml")
    if not os.path.exists(file):
        return [_docker_certificates(registry, found)]
    try:
        with open(file, "rb") as stream:
            document = tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file}: {error}") from error
    return parse_hosts(document, registry, file)


def _find(registry: str, directories: Iterable[str]) -> str | None:
    """`host_port_` (where a colon cannot stand in a name), `host:port`, `_default`."""
    host, colon, port = registry.rpartition(":")
    names = [f"{host}_{port}_"] if colon and port.isdigit() else []
    for directory in directories:
        for name in (*names, registry, "_default"):
            candidate = os.path.join(directory, name)
            if os.path.isdir(candidate):
                return candidate
    return None


def parse_hosts(document: Mapping[str, Any], registry: str, file: str) -> list[Host]:
    """The hosts of a parsed hosts.toml; `file` names it in errors and is what relative paths start from."""
    try:
        mirrors = [_host(url, table, file, registry) for url, table in document.get("host", {}).items()]
        server = document.get("server") or _upstream(registry).url
        last = _host(server, document, file, registry)
    except (TypeError, ValueError, AttributeError) as error:
        raise Invalid(f"{file}: {error}") from error
    if any(mirror.url == last.url for mirror in mirrors):
        return mirrors
    return [*mirrors, last]


def _host(url: str, table: Mapping[str, Any], file: str, registry: str) -> Host:
    unknown = sorted(set(table) - _KNOWN_KEYS)
    if unknown:
        raise Invalid(f"{file}: unknown key {unknown[0]!r} for {url}")
    base = api_root(url, override_path=bool(table.get("override_path", False)))
    directory = os.path.dirname(file)
    return Host(
        url=base,
        capabilities=list(table.get("capabilities", [PULL, RESOLVE])),
        ca=[os.path.join(directory, path) for path in _strings(table.get("ca", []))],
        client=[_pair(entry, directory) for entry in _list(table.get("client", []))],
        skip_verify=bool(table.get("skip_verify", False)),
        headers=[(name, value) for name, values in table.get("header", {}).items() for value in _strings(values)],
        dial_timeout=_seconds(table.get("dial_timeout", 10.0)),
        upstream=urlsplit(base).netloc == upstream_name(registry),
    )


def api_root(url: str, *, override_path: bool) -> str:
    """The API root of a host as hosts.toml writes it: scheme optional, /v2 added unless overridden."""
    if "://" not in url:
        url = f"{'http' if is_loopback(url) else 'https'}://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None:
        raise ValueError(f"the URL of {parts.hostname} carries credentials")
    path = parts.path.rstrip("/")
    if not override_path and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _upstream(registry: str) -> Host:
    return Host(url=api_root(upstream_name(registry), override_path=False))


def _docker_certificates(registry: str, directory: str) -> Host:
    """Docker's certs.d: *.crt are authorities, x.cert with x.key is a client certificate."""
    names = sorted(os.listdir(directory))
    host = _upstream(registry)
    return Host(
        url=host.url,
        ca=[os.path.join(directory, name) for name in names if name.endswith(".crt")],
        client=[
            (os.path.join(directory, name), os.path.join(directory, name.removesuffix("cert") + "key"))
            for name in names
            if name.endswith(".cert")
        ],
    )


def _list(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _strings(value: Any) -> list[str]:
    values = _list(value)
    if not all(isinstance(entry, str) for entry in values):
        raise TypeError(f"expected text or a list of texts, found {value!r}")
    return values


def _pair(entry: Any, directory: str) -> tuple[str, str]:
    parts = _strings(entry)
    certificate = os.path.join(directory, parts[0])
    return certificate, os.path.join(directory, parts[1]) if len(parts) > 1 and parts[1] else ""


def _seconds(value: Any) -> float:
    """Seconds, or a Go duration of one unit: "3s", "500ms"."""
    if isinstance(value, str):
        for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
            if value.endswith(suffix):
                return float(value.removesuffix(suffix)) * factor
    return float(value)


def tls_context(host: Host, *, client: bool) -> ssl.SSLContext:
    """The system's authorities and the host's own; `client`: with its client certificates."""
    context = ssl.create_default_context()
    for path in host.ca:
        context.load_verify_locations(cafile=path)
    for certificate, key in host.client if client else ():
        context.load_cert_chain(certificate, key or None)
    if host.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
