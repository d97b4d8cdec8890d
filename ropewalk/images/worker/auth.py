"""Registry authentication: basic and bearer challenges (distribution spec, token authentication).

Credentials go to the registry they were given for, and to the token service it names, over TLS or loopback only.
They never follow a redirect and never reach a mirror that the request did not name.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.images.reference import DOCKER_HUB
from ropewalk.images.worker import hosts
from ropewalk.spec.image import AuthConfig

CLIENT = "ropewalk"
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]+)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Denied(RopewalkError):
    kind = Kind.DENIED


class Challenge(Struct, frozen=True):
    scheme: str  # lower case
    parameters: dict[str, str]


class Token(Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None


class Fetch(Protocol):
    """Ask a token service: (status, body of at most 1 MiB)."""

    def __call__(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]: ...


def parse_challenges(header: str) -> list[Challenge]:
    """WWW-Authenticate (RFC 9110, 11.6.1): schemes with parameters, several in one header allowed."""
    challenges: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, at):
            quoted, plain = parameter.group(2), parameter.group(3)
            parameters[parameter.group(1).lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = parameter.end()
        challenges.append(Challenge(match.group(1).lower(), parameters))
    return challenges


def meant_for(auth: AuthConfig | None, host: hosts.Host, registry: str) -> AuthConfig | None:
    """The credentials that this host may see: the registry's own, or those that name it as their server."""
    if auth is None:
        return None
    if not auth.server_address:
        return auth if host.upstream else None
    server = auth.server_address
    wanted = urlsplit(server if "://" in server else f"//{server}").netloc.lower()
    names = {host.name.lower()}
    if host.upstream:
        names.add(registry.lower())
        if registry == DOCKER_HUB:
            names.add("index.docker.io")
    return auth if any(name == wanted or fnmatch.fnmatchcase(name, wanted) for name in names) else None


def user_and_password(auth: AuthConfig) -> tuple[str, str] | None:
    """From the two fields, or from `auth`: base64 of user:password."""
    if auth.username:
        return auth.username, auth.password
    if not auth.auth:
        return None
    try:
        user, colon, password = base64.b64decode(auth.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Invalid("the `auth` field of the credentials is not base64 of user:password") from error
    if not colon:
        raise Invalid("the `auth` field of the credentials is not base64 of user:password")
    return user, password.rstrip("\x00")


def answer(challenges: list[Challenge], auth: AuthConfig | None, host: hosts.Host, scope: str, fetch: Fetch) -> str:
    """The Authorization header that answers a 401, or "" if there is none to give."""
    for challenge in challenges:
        if challenge.scheme == "bearer":
            return f"Bearer {_bearer(challenge.parameters, auth, host, scope, fetch)}"
        if challenge.scheme == "basic" and auth is not None:
            pair = user_and_password(auth)
            if pair is not None:
                _check_private(host.url, host.name)
                return _basic(pair)
    return ""


def _basic(pair: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(pair).encode()).decode()


def _check_private(url: str, asked_by: str) -> None:
    """Secrets travel over TLS, or over loopback."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not hosts.is_loopback(parts.netloc):
        raise Denied(f"{asked_by} asks for credentials in clear text at {parts.scheme}://{parts.netloc}")


def _bearer(parameters: dict[str, str], auth: AuthConfig | None, host: hosts.Host, scope: str, fetch: Fetch) -> str:
    if auth is not None and auth.registry_token:
        _check_private(host.url, host.name)
        return auth.registry_token
    realm = parameters.get("realm", "")
    try:
        parts = urlsplit(realm)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        raise Denied(f"{host.name} names no usable token service (realm {realm[:100]!r})")
    if host.secure and parts.scheme != "https":
        raise Denied(f"{host.name} is served by HTTPS but its token service {realm[:100]!r} is not")
    query = {"service": parameters["service"]} if "service" in parameters else {}
    query["scope"] = scope
    status, body = _ask(realm, query, auth, host, fetch)
    if status != 200:
        raise Denied(
            f"the token service {parts.netloc} of {host.name} answered {status}",
            hint="check user and password" if auth else "the image may be private: give credentials",
        )
    try:
        token = msgspec.json.decode(body, type=Token)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Denied(f"the token service {parts.netloc} of {host.name} answered no token: {error}") from error
    text = token.token or token.access_token
    if not text or not text.isascii() or not text.isprintable():
        raise Denied(f"the token service {parts.netloc} of {host.name} answered no usable token")
    return text


def _ask(
    realm: str, query: dict[str, str], auth: AuthConfig | None, host: hosts.Host, fetch: Fetch
) -> tuple[int, bytes]:
    """GET with basic credentials or none; POST for an identity token (OAuth2 refresh)."""
    if auth is not None and auth.identity_token:
        _check_private(realm, host.name)
        form = {**query, "grant_type": "refresh_token", "refresh_token": auth.identity_token, "client_id": CLIENT}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return fetch("POST", realm, headers, urlencode(form).encode())
    headers = {}
    pair = user_and_password(auth) if auth is not None else None
    if pair is not None:
        _check_private(realm, host.name)
        headers["Authorization"] = _basic(pair)
        query["account"] = pair[0]
    separator = "&" if urlsplit(realm).query else "?"
    return fetch("GET", realm + separator + urlencode(query), headers, None)
