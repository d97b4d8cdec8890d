"""containerd's certs.d, read as containerd reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.errors import Invalid
from ropewalk.images.worker import hosts


def write(directory: Path, name: str, text: str) -> list[str]:
    (directory / name).mkdir(parents=True)
    (directory / name / "hosts.toml").write_text(text)
    return [str(directory)]


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.k8s.io", "https://registry.k8s.io/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("localhost", "http://localhost/v2"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
        ("127.9.9.9:5000", "http://127.9.9.9:5000/v2"),
        ("[::1]:5000", "http://[::1]:5000/v2"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
        ("localhost.example.com", "https://localhost.example.com/v2"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com/v2"),
    ],
)
def test_without_a_file_only_loopback_is_plain_http(registry: str, url: str) -> None:
    (host,) = hosts.read_hosts(registry, ["/nonexistent"])
    assert (host.url, host.upstream) == (url, True)


def test_mirrors_come_in_order_and_the_registry_last(tmp_path: Path) -> None:
    directories = write(
        tmp_path,
        "docker.io",
        """
server = "https://registry-1.docker.io"
[host."http://mirror.one:5000"]
  capabilities = ["pull"]
  [host."http://mirror.one:5000".header]
    x-one = ["a", "b"]
[host."https://mirror.two/v2/hub"]
  override_path = true
  ca = "two.pem"
  client = [["c.pem", "k.pem"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "500ms"
""",
    )
    one, two, last = hosts.read_hosts("docker.io", directories)
    assert (one.url, one.capabilities, one.upstream) == ("http://mirror.one:5000/v2", ["pull"], False)
    assert one.headers == [("x-one", "a"), ("x-one", "b")]
    assert (two.url, two.skip_verify, two.dial_timeout) == ("https://mirror.two/v2/hub", True, 0.5)
    assert two.ca == [str(tmp_path / "docker.io/two.pem")]
    assert two.client[0] == (str(tmp_path / "docker.io/c.pem"), str(tmp_path / "docker.io/k.pem"))
    assert (last.url, last.upstream) == ("https://registry-1.docker.io/v2", True)


def test_settings_of_the_server_stand_at_the_top(tmp_path: Path) -> None:
    (host,) = hosts.read_hosts("10.0.0.1:5000", write(tmp_path, "10.0.0.1:5000", 'server = "http://10.0.0.1:5000"'))
    assert host.url == "http://10.0.0.1:5000/v2"
    (host,) = hosts.read_hosts("r.example", write(tmp_path, "r.example", 'ca = ["/etc/a.pem"]'))
    assert (host.url, host.ca) == ("https://r.example/v2", ["/etc/a.pem"])


@pytest.mark.parametrize("name", ["r.example_5000_", "r.example:5000", "_default"])
def test_the_directory_of_a_registry_has_several_names(tmp_path: Path, name: str) -> None:
    directories = write(tmp_path, name, '[host."http://m"]')
    assert hosts.read_hosts("r.example:5000", directories)[0].url == "http://m/v2"


def test_the_first_directory_wins(tmp_path: Path) -> None:
    directories = [
        *write(tmp_path / "a", "r.example", '[host."http://a"]'),
        *write(tmp_path / "b", "r.example", '[host."http://b"]'),
    ]
    assert [host.url for host in hosts.read_hosts("r.example", directories)] == ["http://a/v2", "https://r.example/v2"]


def test_a_host_that_is_also_the_server_is_asked_once(tmp_path: Path) -> None:
    directories = write(tmp_path, "r.example", '[host."https://r.example"]\nca = "x"')
    assert len(hosts.read_hosts("r.example", directories)) == 1


def test_dockers_directory_has_certificates_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "r.example").mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (tmp_path / "r.example" / name).touch()
    (host,) = hosts.read_hosts("r.example", [str(tmp_path)])
    assert host.ca == [str(tmp_path / "r.example/ca.crt")]
    assert host.client == [(str(tmp_path / "r.example/client.cert"), str(tmp_path / "r.example/client.key"))]


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        '[host."ftp://m"]',
        '[host."http://user:pass@m"]',
        '[host."http://m"]\ntypo = 1',
        '[host."http://m"]\nca = 5',
        'host = "m"',
        '[host."http://m"]\ndial_timeout = "soon"',
    ],
)
def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    directories = write(tmp_path, "r.example", text)
    with pytest.raises(Invalid, match=r"r\.example/hosts\.toml"):
        hosts.read_hosts("r.example", directories)
