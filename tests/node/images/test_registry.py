"""Debian's docker-registry: plain HTTP on loopback, TLS with a private authority, basic and bearer tokens.

Images are pushed by skopeo from OCI layouts; what was transferred is read from the registry's own access log.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec.image import AuthConfig
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.node.images.conftest import Store

LAYERS = [oci.layer([oci.File(f"data{n}", os.urandom(400_000))], how) for n, how in enumerate(("gzip", "zstd", ""))]
IMAGE = oci.Image(LAYERS, {"User": "1002"})
DOCKER = oci.Image(
    [oci.layer([oci.File("f", b"x")], media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")], docker=True
)
USER = AuthConfig(username="user", password="pass")


class Registry:
    """A docker-registry process in its own directory."""

    def __init__(self, where: Path, **settings: Any) -> None:
        where.mkdir()
        self.log = where / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        http = {"addr": self.host, **settings.pop("http", {})}
        config = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(where / "data")}}, "http": http}
        (where / "config.yml").write_text(json.dumps({**config, **settings}))  # JSON is YAML
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(where / "config.yml")], stdout=log, stderr=log, cwd=where
            )
        self._wait()

    def _wait(self) -> None:
        address, port = self.host.split(":")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((address, int(port)), 1):
                return
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def push(self, image: oci.Image, name: str, where: Path, *arguments: str) -> None:
        layout = image.write_layout(where / f"layout-{name.replace(':', '-')}")
        destination = f"docker://{self.host}/test/{name}"
        argv = [
            "skopeo",
            "copy",
            "-q",
            "--preserve-digests",
            *arguments,
            "--dest-tls-verify=false",
            f"oci:{layout}",
            destination,
        ]
        done = subprocess.run(argv, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def fetched(self, digest: str) -> list[int]:
        """Bytes of each GET of a blob, from the access log (Apache's combined format)."""
        found = re.findall(rf'"GET \S*/blobs/{digest}\S* HTTP/1.1" 20[06] (\d+)', self.log.read_text())
        return [int(size) for size in found]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@contextlib.contextmanager
def serving(where: Path, **settings: Any) -> Iterator[Registry]:
    registry = Registry(where, **settings)
    try:
        yield registry
    finally:
        registry.close()


def make_certificates(where: Path) -> None:
    """A private authority ca.pem, and server.pem with server.key for 127.0.0.1."""
    where.mkdir(exist_ok=True)
    (where / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ropewalk-test-ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=where, check=True, capture_output=True)


def trust(images: Store, registry: Registry, text: str) -> None:
    directory = images.hosts / registry.host
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(text)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("certificates")
    make_certificates(where)
    return where


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    where = tmp_path_factory.mktemp("plain")
    with serving(where / "registry") as registry:
        registry.push(IMAGE, "oci:1", where)
        registry.push(DOCKER, "docker:1", where)
        yield registry


async def test_tags_and_digests_in_one_transfer(images: Store, plain: Registry) -> None:
    id = await images.puller.pull(f"{plain.host}/test/oci:1")
    assert id == IMAGE.id
    assert await images.puller.pull(f"{plain.host}/test/oci@{IMAGE.digest}") == id
    image = images.images.find(id)
    assert image is not None
    assert image.tags == [f"{plain.host}/test/oci:1"]
    assert image.digests == [f"{plain.host}/test/oci@{IMAGE.digest}"]
    assert image.uid == 1002
    for layer in IMAGE.layers:
        assert plain.fetched(layer.digest) == [len(layer.blob)]


async def test_a_pull_by_digest_has_no_tag(images: Store, plain: Registry) -> None:
    await images.puller.pull(f"{plain.host}/test/oci@{IMAGE.digest}")
    (image,) = images.images.list()
    assert (image.tags, image.digests) == ([], [f"{plain.host}/test/oci@{IMAGE.digest}"])


async def test_docker_schema_2(images: Store, plain: Registry) -> None:
    image = images.images.find(await images.puller.pull(f"{plain.host}/test/docker:1"))
    assert image is not None
    assert image.documents[0].media_type == "application/vnd.docker.distribution.manifest.v2+json"


async def test_what_is_not_there(images: Store, plain: Registry) -> None:
    for name in ("test/oci:2", "test/none:1", f"test/oci@sha256:{'0' * 64}"):
        with pytest.raises(RopewalkError) as caught:
            await images.puller.pull(f"{plain.host}/{name}")
        assert caught.value.kind is Kind.NOT_FOUND
        assert plain.host in caught.value.message


async def test_a_mirror_keeps_the_canonical_name(images: Store, plain: Registry) -> None:
    directory = images.hosts / "registry.example"
    directory.mkdir()
    (directory / "hosts.toml").write_text(
        f'server = "http://127.0.0.1:1"\n[host."http://127.0.0.1:2"]\n[host."http://{plain.host}"]\n'
    )
    image = images.images.find(await images.puller.pull("registry.example/test/oci:1"))
    assert image is not None
    assert image.tags == ["registry.example/test/oci:1"]


async def test_tls_needs_the_private_authority(images: Store, certificates: Path, tmp_path: Path) -> None:
    tls = {"certificate": str(certificates / "server.pem"), "key": str(certificates / "server.key")}
    with serving(tmp_path / "registry", http={"tls": tls}) as registry:
        registry.push(IMAGE, "oci:1", tmp_path)
        reference = f"{registry.host}/test/oci:1"
        with pytest.raises(RopewalkError) as caught:  # plain HTTP is the default on loopback
            await images.puller.pull(reference)
        trust(images, registry, f'server = "https://{registry.host}"\n')
        with pytest.raises(RopewalkError, match="cannot be trusted") as caught:
            await images.puller.pull(reference)
        assert "`ca` in hosts.toml" in caught.value.hint
        trust(images, registry, f'server = "https://{registry.host}"\nca = "{certificates / "ca.pem"}"\n')
        assert await images.puller.pull(reference) == IMAGE.id
        trust(images, registry, f'server = "https://{registry.host}"\nskip_verify = true\n')
        assert await images.puller.pull(reference) == IMAGE.id


async def test_a_client_certificate_is_shown(images: Store, certificates: Path, tmp_path: Path) -> None:
    tls = {
        "certificate": str(certificates / "server.pem"),
        "key": str(certificates / "server.key"),
        "clientcas": [str(certificates / "ca.pem")],
    }
    with serving(tmp_path / "registry", http={"tls": tls}) as registry:
        text = f'server = "https://{registry.host}"\nca = "{certificates / "ca.pem"}"\n'
        trust(images, registry, text)
        with pytest.raises(RopewalkError):
            await images.puller.pull(f"{registry.host}/test/oci:1")
        client = f'client = [["{certificates / "server.pem"}", "{certificates / "server.key"}"]]\n'
        trust(images, registry, text + client)
        with pytest.raises(RopewalkError) as caught:  # nothing was pushed: but it is let in, and looks
            await images.puller.pull(f"{registry.host}/test/oci:1")
        assert caught.value.kind is Kind.NOT_FOUND


async def test_basic_credentials(images: Store, tmp_path: Path) -> None:
    passwords = subprocess.run(["htpasswd", "-Bbn", "user", "pass"], capture_output=True, check=True).stdout
    (tmp_path / "htpasswd").write_bytes(passwords)
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with serving(tmp_path / "registry", auth=auth) as registry:
        registry.push(IMAGE, "oci:1", tmp_path, "--dest-creds=user:pass")
        reference = f"{registry.host}/test/oci:1"
        encoded = AuthConfig(auth=base64.b64encode(b"user:pass").decode(), server_address=registry.host)
        for wrong in (
            None,
            AuthConfig(username="user", password="no"),
            AuthConfig("user", "pass", "", "other.example"),
        ):
            with pytest.raises(RopewalkError) as caught:
                await images.puller.pull(reference, wrong)
            assert caught.value.kind is Kind.DENIED
        assert await images.puller.pull(reference, USER) == IMAGE.id
        assert await images.puller.pull(reference, encoded) == IMAGE.id
        with pytest.raises(RopewalkError):  # an image that is here is no way around the registry's answer
            await images.puller.pull(reference)


class TokenService:
    """Signs what docker-registry verifies (docs/spec/auth/jwt.md) for whoever knows the password."""

    def __init__(self, certificates: Path) -> None:
        self._certificates = certificates
        self.fake = fakes.Registry()
        self.fake.script = self._serve
        self.realm = f"http://{self.fake.host}/token"

    def _serve(self, request: fakes.Request, answer: fakes.Answer) -> bool:
        expected = "Basic " + base64.b64encode(b"user:pass").decode()
        refresh = b"refresh_token=r3fresh" in request.body
        if request.headers.get("authorization") != expected and not refresh:
            return answer.send(401)
        return answer.send(200, json.dumps({"token": self.token()}).encode())

    def token(self) -> str:
        pem = (self._certificates / "server.pem").read_text()
        der = "".join(pem.split("-----")[2].split())
        now = int(time.time())
        access = [{"type": "repository", "name": "test/oci", "actions": ["pull", "push"]}]
        claims = {"iss": "issuer", "aud": "service", "sub": "user", "exp": now + 300, "nbf": now - 300, "iat": now}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = ".".join(
            _base64(json.dumps(part).encode()) for part in (head, {**claims, "jti": "1", "access": access})
        )
        key = str(self._certificates / "server.key")
        argv = ["openssl", "dgst", "-sha256", "-sign", key]
        signature = subprocess.run(argv, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{_base64(signature)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_bearer_tokens(images: Store, certificates: Path, tmp_path: Path) -> None:
    service = TokenService(certificates)
    bundle = str(certificates / "ca.pem")
    token = {"realm": service.realm, "service": "service", "issuer": "issuer", "rootcertbundle": bundle}
    try:
        with serving(tmp_path / "registry", auth={"token": token}) as registry:
            registry.push(IMAGE, "oci:1", tmp_path, "--dest-creds=user:pass")
            service.fake.requests.clear()
            reference = f"{registry.host}/test/oci:1"
            assert await images.puller.pull(reference, USER) == IMAGE.id
            asked = service.fake.asked()
            assert len(asked) == 1, "one token serves every worker"
            assert (asked[0].query["service"], asked[0].query["scope"]) == ("service", "repository:test/oci:pull")
            assert await images.puller.pull(reference, AuthConfig(identity_token="r3fresh")) == IMAGE.id
            assert await images.puller.pull(reference, AuthConfig(registry_token=service.token())) == IMAGE.id
            for wrong in (None, AuthConfig(username="user", password="no"), AuthConfig(registry_token="forged")):
                with pytest.raises(RopewalkError) as caught:
                    await images.puller.pull(reference, wrong)
                assert caught.value.kind is Kind.DENIED
    finally:
        service.fake.close()


async def test_a_registry_that_goes_away_and_comes_back(images: Store, plain: Registry, tmp_path: Path) -> None:
    with serving(tmp_path / "registry") as registry:
        registry.push(IMAGE, "oci:1", tmp_path)
    with pytest.raises(RopewalkError, match="RegistryUnavailable: "):
        await images.puller.pull(f"{registry.host}/test/oci:1")
    assert await images.puller.pull(f"{plain.host}/test/oci:1") == IMAGE.id
