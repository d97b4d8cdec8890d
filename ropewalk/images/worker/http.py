"""One host's API over HTTP/1.1: authorization, retries, redirects, bounded bodies.

A request is repeated where that can help (429, 5xx, a cut connection) and never where it cannot. Redirects are
followed by hand: what is secret, and what hosts.toml adds, stays with the host it was meant for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import ssl
import time
from collections.abc import Iterator
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
import urllib3
import urllib3.exceptions
from msgspec import Struct
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from ropewalk import errors
from ropewalk.errors import Kind, RopewalkError
from ropewalk.images.worker import auth, hosts, proxies
from ropewalk.spec.image import AuthConfig

TRIES = 5
REDIRECTS = 5
BACKOFF = 0.2  # seconds, doubled each time, up to MAX_PAUSE
MAX_PAUSE = 20.0  # also of a Retry-After
MAX_TOKEN = 1 << 20
MAX_ERROR = 64 << 10
CHUNK = 256 << 10
_AGAIN = frozenset((429, 500, 502, 503, 504))
_MOVED = frozenset((301, 302, 303, 307, 308))
_PROBLEMS = (HTTPError, OSError)
_HEADERS = {"User-Agent": auth.CLIENT, "Accept-Encoding": "identity"}
Response = urllib3.BaseHTTPResponse


class Unreachable(RopewalkError):
    """Nobody answers there. The kubelet matches the prefix (pkg/kubelet/images: ErrRegistryUnavailable)."""

    kind = Kind.UNAVAILABLE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"RegistryUnavailable: {message}", hint=hint)


class _Problem(Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Problems(Struct, frozen=True):
    errors: list[_Problem] = []


class Client:
    """A host's API. `authorization` is what worked last; it may be handed to another worker."""

    def __init__(self, host: hosts.Host, registry: str, credentials: AuthConfig | None, stall: float) -> None:
        self.host = host
        self.authorization = ""
        self._registry = registry
        self._auth = auth.meant_for(credentials, host, registry)
        self._withheld = credentials is not None and self._auth is None
        self._stall = stall
        self._others: dict[str, urllib3.PoolManager] = {}  # by proxy

    @functools.cached_property
    def _pool(self) -> urllib3.PoolManager:
        context = hosts.tls_context(self.host, client=True) if self.host.secure else None
        return self._manager(context, proxies.choose(self.host.url, os.environ))

    def _elsewhere(self, url: str) -> urllib3.PoolManager:
        """For other hosts, where a redirect or a token service leads: same authorities, no client certificate."""
        proxy = proxies.choose(url, os.environ)
        if proxy not in self._others:
            self._others[proxy] = self._manager(hosts.tls_context(self.host, client=False), proxy)
        return self._others[proxy]

    def _manager(self, context: ssl.SSLContext | None, proxy: str) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(connect=self.host.dial_timeout, read=self._stall)
        if not proxy:
            return urllib3.PoolManager(retries=False, timeout=timeout, ssl_context=context)
        secret = unquote(urlsplit(proxy).netloc.rpartition("@")[0])
        headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
        return urllib3.ProxyManager(proxy, proxy_headers=headers, retries=False, timeout=timeout, ssl_context=context)

    def url(self, path: str) -> str:
        """Below the API root; mirrors learn whom they stand for (containerd's `ns`)."""
        query = "" if self.host.upstream else f"?ns={self._registry}"
        return f"{self.host.url}/{path}{query}"

    @contextlib.contextmanager
    def get(self, path: str, repository: str, headers: dict[str, str], *, method: str = "GET") -> Iterator[Response]:
        """A response of status 200 or 206, its body unread. Raises NotFound, Denied, Unreachable, RopewalkError."""
        scope = f"repository:{repository}:pull"
        answered = False
        for attempt in range(TRIES):
            response, own = self._try(method, path, headers, last=attempt == TRIES - 1)
            if response is None:
                time.sleep(pause(attempt))
                continue
            with contextlib.closing(response):
                if response.status in (200, 206):
                    yield response
                    return
                if response.status == 401 and own and not answered:
                    answered = True
                    self.authorization = self._answer(response, scope)
                    if self.authorization:
                        continue
                if response.status in _AGAIN and attempt < TRIES - 1:
                    time.sleep(pause(attempt, response.headers.get("Retry-After", "")))
                    continue
                raise self._refusal(response, path)
        raise Unreachable(f"{self.host.name} gave no answer in {TRIES} tries")

    def _try(self, method: str, path: str, headers: dict[str, str], *, last: bool) -> tuple[Response | None, bool]:
        """As `_follow`. None: the connection was cut before an answer; again."""
        try:
            return self._follow(method, self.url(path), headers)
        except ProtocolError as error:
            if last:
                raise self.unreachable(error) from error
            return None, False
        except _PROBLEMS as error:
            raise self.unreachable(error) from error
        except ValueError as error:  # urllib.parse
            message = f"{self.host.name} redirects to what is no URL: {error}"
            raise RopewalkError(message, kind=Kind.UNAVAILABLE) from error

    def _follow(self, method: str, url: str, headers: dict[str, str]) -> tuple[Response, bool]:
        """The first answer that is no redirect, and whether the host itself gave it: a challenge from where it
        redirected to would name a token service of its own, and that one would be sent the credentials."""
        home = urlsplit(url)
        headers = {**_HEADERS, **headers}
        pool, sent = self._pool, {**dict(self.host.headers), **headers}
        if self.authorization:
            sent["Authorization"] = self.authorization
        for _ in range(REDIRECTS):
            response = pool.request(method, url, headers=sent, preload_content=False, redirect=False)
            location = response.headers.get("Location", "")
            if response.status not in _MOVED or not location:
                return response, pool is self._pool
            response.drain_conn() if method == "HEAD" else response.close()
            target = urlsplit(urljoin(url, location))
            if target.scheme not in ("http", "https") or (target.scheme == "http" and self.host.secure):
                raise RopewalkError(
                    f"{self.host.name} redirects to {target.scheme}://{target.netloc}, which is not private",
                    kind=Kind.DENIED,
                )
            url = target.geturl()
            if (target.scheme, target.netloc) != (home.scheme, home.netloc):
                pool, sent = self._elsewhere(url), dict(headers)
        raise RopewalkError(f"{self.host.name} redirects more than {REDIRECTS} times", kind=Kind.UNAVAILABLE)

    def _answer(self, response: Response, scope: str) -> str:
        header = ", ".join(response.headers.getlist("WWW-Authenticate"))
        return auth.answer(auth.parse_challenges(header), self._auth, self.host, scope, self._fetch_token)

    def _fetch_token(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        """auth.Fetch. Redirects of a token service are not followed: the request carries credentials."""
        home = urlsplit(self.host.url)[:2] == urlsplit(url)[:2]
        pool, headers = self._pool if home else self._elsewhere(url), {**_HEADERS, **headers}
        for attempt in range(TRIES):
            try:
                response = pool.request(method, url, headers=headers, body=body, preload_content=False, redirect=False)
                with contextlib.closing(response):
                    status, data = response.status, read(response, MAX_TOKEN)
            except _PROBLEMS as error:
                raise Unreachable(
                    f"the token service {urlsplit(url).netloc} of {self.host.name}: {explain(error)}"
                ) from error
            if status not in _AGAIN or attempt == TRIES - 1:
                break
            time.sleep(pause(attempt, response.headers.get("Retry-After", "")))
        if len(data) > MAX_TOKEN:
            raise auth.Denied(f"the token service {urlsplit(url).netloc} answered more than {MAX_TOKEN} bytes")
        return status, data

    def _refusal(self, response: Response, path: str) -> RopewalkError:
        said = _reason(response)
        message = f"{self.host.name} answered {response.status} for {path}" + (f" ({said})" if said else "")
        if response.status in (401, 403):
            hint = "check the credentials; the image may also not exist"
            if self._withheld:
                hint = f"the given credentials are for another server than {self.host.name} and were not sent"
            return auth.Denied(message, hint=hint)
        if response.status == 404:
            return errors.NotFound(message)
        return RopewalkError(message, kind=Kind.UNAVAILABLE)

    def unreachable(self, error: Exception) -> RopewalkError:
        """What a failed connection means to the caller."""
        if isinstance(error, RopewalkError):
            return error
        reason = explain(error)
        if isinstance(error, SSLError) or isinstance(getattr(error, "reason", None), SSLError):
            hint = f"give its authority as `ca` in hosts.toml of {self._registry}"
            if "WRONG_VERSION_NUMBER" in reason or "record layer failure" in reason:
                hint = f'it may speak plain HTTP: say so with [host."http://{self.host.name}"] in hosts.toml'
            return Unreachable(f"{self.host.name} cannot be trusted: {reason}", hint=hint)
        if isinstance(error, ReadTimeoutError):
            return Unreachable(f"{self.host.name} sent nothing for {self._stall:g} s")
        return Unreachable(f"{self.host.name}: {reason}")


def read(response: Response, limit: int) -> bytes:
    """The whole body, or its first bytes, more than `limit`. Raises urllib3's errors if it is cut."""
    body = bytearray()
    while len(body) <= limit and (piece := response.read(CHUNK, decode_content=False)):
        body += piece
    return bytes(body)


def pause(attempt: int, retry_after: str = "") -> float:
    """Seconds to wait: what the server asks for, else an exponential back-off with jitter; never above MAX_PAUSE."""
    if retry_after.isdigit():
        return min(float(retry_after), MAX_PAUSE)
    wait: float = min(BACKOFF * 2**attempt, MAX_PAUSE)
    return wait * (0.5 + random.random() / 2)


def explain(error: Exception) -> str:
    """The cause in words, without urllib3's object addresses."""
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, ProxyError):
        return f"the proxy (HTTPS_PROXY, HTTP_PROXY) does not let it through: {explain(reason.original_error)}"
    if isinstance(reason, NameResolutionError):
        return "its name does not resolve"
    if isinstance(reason, NewConnectionError):
        return str(reason).partition(": ")[2].removeprefix("Failed to establish a new connection: ")
    if isinstance(reason, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return str(reason) or type(reason).__name__


def _reason(response: Response) -> str:
    """The registry's own words (distribution spec, error codes), bounded and printable."""
    try:
        body = read(response, MAX_ERROR)
        problems = msgspec.json.decode(body, type=_Problems).errors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, *_PROBLEMS):
        return ""
    said = ", ".join(f"{p.code}: {p.message}" for p in problems[:3])[:300]
    return "".join(c if c.isprintable() else "?" for c in said)
