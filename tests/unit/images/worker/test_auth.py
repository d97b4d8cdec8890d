"""Challenges are parsed, and credentials go where they belong and nowhere else (T22)."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.images.worker import auth, hosts
from ropewalk.images.worker.auth import Challenge
from ropewalk.spec.image import AuthConfig

HOST = hosts.Host("https://r.example/v2")
PLAIN = hosts.Host("http://10.0.0.1/v2")
LOOPBACK = hosts.Host("http://127.0.0.1:5000/v2")
USER = AuthConfig(username="u", password="p")
SCOPE = "repository:a/b:pull"


class Service:
    """A token service that notes what it is asked."""

    def __init__(self, status: int = 200, body: bytes = b'{"token": "t0k"}') -> None:
        self.status, self.body = status, body
        self.calls: list[tuple[str, str, dict[str, str], bytes | None]] = []

    def __call__(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, bytes]:
        self.calls.append((method, url, headers, body))
        return self.status, self.body


def bearer(realm: str = "https://auth.example/token", **parameters: str) -> list[Challenge]:
    return [Challenge("bearer", {"realm": realm, **parameters})]


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            'Basic realm="x", Bearer realm="y", service=z',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y", "service": "z"})],
        ),
        (r'Bearer realm="a\"b"', [Challenge("bearer", {"realm": 'a"b'})]),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("", []),
        ("=,=;", []),
    ],
)
def test_challenges_are_parsed(header: str, challenges: list[Challenge]) -> None:
    assert auth.parse_challenges(header) == challenges


def test_a_token_is_fetched_with_basic_credentials() -> None:
    service = Service()
    answer = auth.answer(bearer(service="s"), USER, HOST, SCOPE, service)
    assert answer == "Bearer t0k"
    ((method, url, headers, body),) = service.calls
    assert (method, body) == ("GET", None)
    assert parse_qs(urlsplit(url).query) == {"service": ["s"], "scope": [SCOPE], "account": ["u"]}
    assert headers == {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}


def test_anonymous_tokens_need_no_credentials() -> None:
    service = Service(body=b'{"access_token": "anon", "expires_in": 60}')
    assert auth.answer(bearer(), None, HOST, SCOPE, service) == "Bearer anon"
    assert service.calls[0][2] == {}
    both = Service(body=b'{"token": null, "access_token": "anon"}')
    assert auth.answer(bearer(), None, HOST, SCOPE, both) == "Bearer anon"


def test_an_identity_token_is_exchanged_by_post() -> None:
    service = Service()
    auth.answer(bearer(service="s"), AuthConfig(identity_token="refresh"), HOST, SCOPE, service)
    ((method, url, _, body),) = service.calls
    assert (method, url) == ("POST", "https://auth.example/token")
    assert parse_qs((body or b"").decode())["refresh_token"] == ["refresh"]


def test_a_registry_token_is_used_as_it_is() -> None:
    service = Service()
    assert auth.answer(bearer(), AuthConfig(registry_token="ready"), HOST, SCOPE, service) == "Bearer ready"
    assert service.calls == []


def test_basic_credentials_from_both_forms() -> None:
    encoded = AuthConfig(auth=base64.b64encode(b"u:p:q").decode())
    basic = [Challenge("basic", {})]
    assert auth.answer(basic, USER, HOST, SCOPE, Service()) == "Basic " + base64.b64encode(b"u:p").decode()
    assert auth.answer(basic, encoded, HOST, SCOPE, Service()) == "Basic " + base64.b64encode(b"u:p:q").decode()
    assert auth.answer(basic, None, HOST, SCOPE, Service()) == ""
    for bad in ("%%%", base64.b64encode(b"nocolon").decode(), base64.b64encode(b"\xff:\xff").decode()):
        with pytest.raises(Invalid, match="base64"):
            auth.answer(basic, AuthConfig(auth=bad), HOST, SCOPE, Service())


@pytest.mark.parametrize(
    ("realm", "host"),
    [
        ("http://auth.example/token", HOST),
        ("http://127.0.0.1/token", HOST),
        ("http://auth.example/token", LOOPBACK),
        ("http://auth.example/token", PLAIN),
        ("", HOST),
        ("ftp://auth.example/", HOST),
        ("//auth.example/", HOST),
        ("https://user:pw@auth.example/", HOST),
        ("https://[auth.example/", HOST),
        ("https://auth.example:99999/", HOST),
        ("file:///etc/passwd", HOST),
    ],
)
def test_no_credentials_to_a_service_that_is_not_private(realm: str, host: hosts.Host) -> None:
    service = Service()
    with pytest.raises(RopewalkError) as caught:
        auth.answer(bearer(realm), USER, host, SCOPE, service)
    assert caught.value.kind is Kind.DENIED
    assert service.calls == []


def test_no_basic_credentials_or_tokens_over_plain_http() -> None:
    with pytest.raises(RopewalkError, match="clear text"):
        auth.answer([Challenge("basic", {})], USER, PLAIN, SCOPE, Service())
    with pytest.raises(RopewalkError, match="clear text"):
        auth.answer(bearer(), AuthConfig(registry_token="t"), PLAIN, SCOPE, Service())
    assert auth.answer([Challenge("basic", {})], USER, LOOPBACK, SCOPE, Service())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"nope",
        b'{"token": ""}',
        b'{"token": null, "access_token": null}',
        json.dumps({"token": "a\r\nX: y"}).encode(),
        '{"token":"é"}'.encode(),
    ],
)
def test_a_token_must_be_a_token(body: bytes) -> None:
    with pytest.raises(RopewalkError) as caught:
        auth.answer(bearer(), None, HOST, SCOPE, Service(body=body))
    assert caught.value.kind is Kind.DENIED


def test_a_refusal_of_the_token_service_says_so_without_the_secret() -> None:
    with pytest.raises(RopewalkError, match=r"auth\.example of r\.example answered 401") as caught:
        auth.answer(bearer(), AuthConfig(username="u", password="s3cret"), HOST, SCOPE, Service(status=401))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(AuthConfig(username="u", password="s3cret"))


MIRROR = hosts.Host("https://mirror.example/v2", upstream=False)
HUB = hosts.Host("https://registry-1.docker.io/v2")


@pytest.mark.parametrize(
    ("server", "host", "registry", "given"),
    [
        ("", HOST, "r.example", True),
        ("", MIRROR, "r.example", False),
        ("r.example", HOST, "r.example", True),
        ("https://r.example/v1/", HOST, "r.example", True),
        ("*.example", HOST, "r.example", True),
        ("other.example", HOST, "r.example", False),
        ("mirror.example", MIRROR, "r.example", True),
        ("r.example", MIRROR, "r.example", False),
        ("https://index.docker.io/v1/", HUB, "docker.io", True),
        ("docker.io", HUB, "docker.io", True),
        ("r.example.evil", HOST, "r.example", False),
        ("[::1]:5000", hosts.Host("http://[::1]:5000/v2"), "[::1]:5000", True),
        ("[::1]:5000", hosts.Host("http://[::2]:5000/v2"), "[::2]:5000", False),
    ],
)
def test_credentials_are_for_the_server_they_name(server: str, host: hosts.Host, registry: str, given: bool) -> None:
    credentials = AuthConfig(username="u", server_address=server)
    assert (auth.meant_for(credentials, host, registry) is credentials) is given
