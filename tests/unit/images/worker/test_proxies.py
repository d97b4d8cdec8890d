"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY: whom they mean, and that pulls really go there."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from ropewalk.errors import Invalid, Kind
from ropewalk.images import jobs
from ropewalk.images.worker import proxies, registry, resolve
from tests.fakes import proxy as proxying
from tests.fakes import registry as fakes
from tests.unit.images.worker.scenario import AMD64, BLOB, IMAGE, LAYER, refusal

BOTH = {"HTTPS_PROXY": "http://secure.proxy:3128", "HTTP_PROXY": "plain.proxy:3128"}


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxy"),
    [
        ("https://r.example/v2", "", "http://secure.proxy:3128"),
        ("http://r.example/v2", "", "http://plain.proxy:3128"),
        ("http://localhost:5000/v2", "", ""),
        ("http://127.0.0.1:5000/v2", "", ""),
        ("http://[::1]:5000/v2", "", ""),
        ("https://r.example/v2", "*", ""),
        ("https://r.example/v2", "other, r.example", ""),
        ("https://r.example/v2", "EXAMPLE", ""),
        ("https://r.example/v2", ".example", ""),
        ("https://r.example/v2", "*.example", ""),
        ("https://example/v2", ".example", "http://secure.proxy:3128"),
        ("https://notr.example/v2", "r.example", "http://secure.proxy:3128"),
        ("https://r.example/v2", "r.example:443", ""),
        ("https://r.example/v2", "r.example:5000", "http://secure.proxy:3128"),
        ("https://r.example/v2", "r.example:port,,", "http://secure.proxy:3128"),
        ("https://10.1.2.3/v2", "10.0.0.0/8", ""),
        ("https://10.1.2.3/v2", "10.1.2.3", ""),
        ("https://11.1.2.3/v2", "10.0.0.0/8", "http://secure.proxy:3128"),
        ("https://[fd00::1]/v2", "fd00::/8", ""),
        ("https://r.example/v2", "10.0.0.0/8", "http://secure.proxy:3128"),
    ],
)
def test_who_is_asked_through_which_proxy(url: str, no_proxy: str, proxy: str) -> None:
    assert proxies.choose(url, {**BOTH, "NO_PROXY": no_proxy}) == proxy


def test_lower_case_names_count_and_upper_case_wins() -> None:
    assert proxies.choose("https://r.example", {"https_proxy": "http://a"}) == "http://a"
    assert proxies.choose("https://r.example", {"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}) == "http://b"
    assert proxies.choose("https://r.example", {**BOTH, "no_proxy": "r.example"}) == ""
    assert proxies.choose("https://r.example", {}) == ""


def test_a_proxy_of_another_protocol_is_refused_without_telling_its_password() -> None:
    with pytest.raises(Invalid) as caught:
        proxies.choose("https://r.example", {"HTTPS_PROXY": "socks5://user:secret@proxy:1080"})
    assert "socks5://proxy:1080" in caught.value.message
    assert "secret" not in caught.value.message


def source(directory: Path, server: str, more: str = "") -> jobs.Source:
    """Of a registry whose name does not resolve."""
    (directory / "r.invalid").mkdir(exist_ok=True)
    (directory / "r.invalid" / "hosts.toml").write_text(f'server = "{server}"\n{more}')
    return jobs.Source("r.invalid", "test/image", [str(directory)], stall=5)


def pull(where: jobs.Source) -> None:
    resolved = resolve.resolve(jobs.Resolve(where, "1", AMD64))
    assert resolved.config_digest == IMAGE.id
    assert b"".join(registry.Registry(resolved.source).read_blob(BLOB)) == LAYER.blob


def test_plain_http_is_asked_of_the_proxy(
    fake: fakes.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:p%40ss@{fake.host}")
    pull(source(tmp_path, "http://r.invalid"))
    assert {request.headers["host"] for request in fake.requests} == {"r.invalid"}
    assert {request.headers["proxy-authorization"] for request in fake.requests} == {"Basic dXNlcjpwQHNz"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cert.pem for r.invalid, signed by itself, with key.pem."""
    where = tmp_path_factory.mktemp("certificate")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=r.invalid -addext subjectAltName=DNS:r.invalid"
    subprocess.run(
        ["openssl", *command.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=where,
        check=True,
        capture_output=True,
    )
    return where


def test_https_goes_through_a_tunnel(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with fakes.running(context=context) as secure, proxying.running(secure.host, secret="user:pw") as proxy:
        secure.add("1", IMAGE)
        trusted = source(tmp_path, "https://r.invalid", f'ca = "{certificate / "cert.pem"}"\n')
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pw@{proxy.host}")
        pull(trusted)
        assert set(proxy.asked) == {"r.invalid:443"}
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@{proxy.host}")
        error = refusal(lambda: pull(trusted))
    assert error.kind is Kind.UNAVAILABLE
    assert "proxy" in error.message
    assert "407" in error.message
    assert "wrong" not in error.message


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying.running("127.0.0.1:1") as gone:
        pass
    monkeypatch.setenv("HTTPS_PROXY", f"http://{gone.host}")
    error = refusal(lambda: pull(source(tmp_path, "https://r.invalid")))
    assert error.kind is Kind.UNAVAILABLE
    assert "the proxy" in error.message
    assert "refused" in error.message
