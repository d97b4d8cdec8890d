"""Who is asked, with which secrets: credentials, redirects, mirrors (T22)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.errors import Kind
from ropewalk.images import jobs
from ropewalk.images.worker import http, registry, resolve
from ropewalk.spec.image import AuthConfig
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.registry import Answer, Request
from tests.unit.images.worker.scenario import AMD64, BLOB, IMAGE, LAYER, cut_at, read, refusal, run

# -- redirects and credentials (T22)

SECRET = AuthConfig(username="user", password="s3cret")


def demand_basic(request: Request, answer: Answer) -> bool:
    return "authorization" not in request.headers and answer.send(401, headers={"WWW-Authenticate": 'Basic realm="r"'})


def test_credentials_answer_a_challenge(fake: fakes.Registry) -> None:
    fake.script = demand_basic
    resolved = run(fake, auth=SECRET)
    assert resolved.source.grants == {f"http://{fake.host}/v2": fake.requests[-1].headers["authorization"]}
    assert refusal(lambda: run(fake)).kind is Kind.DENIED


def test_what_was_granted_is_used_at_once(fake: fakes.Registry) -> None:
    fake.script = demand_basic
    granted = run(fake, auth=SECRET).source
    fake.requests.clear()
    b"".join(registry.Registry(granted).read_blob(BLOB))
    assert len(fake.requests) == 1


def test_credentials_for_another_server_are_not_sent(fake: fakes.Registry) -> None:
    fake.script = demand_basic
    error = refusal(lambda: run(fake, auth=AuthConfig(username="u", password="p", server_address="other.example")))
    assert error.kind is Kind.DENIED
    assert "another server" in error.hint
    assert not any("authorization" in request.headers for request in fake.requests)


def test_a_redirect_to_another_host_carries_no_secret(fake: fakes.Registry, tmp_path: Path) -> None:
    (tmp_path / fake.host).mkdir()
    (tmp_path / fake.host / "hosts.toml").write_text(f'server = "http://{fake.host}"\n[header]\nx-secret = "1"\n')
    with fakes.running() as storage:
        storage.blobs = fake.blobs

        def script(request: Request, answer: Answer) -> bool:
            location = f"http://{storage.host}{request.path}?signature=x"
            return demand_basic(request, answer) or (
                "/blobs/" in request.path and answer.send(307, headers={"Location": location})
            )

        fake.script = script
        assert read(fake, auth=SECRET, hosts_directories=[str(tmp_path)]) == LAYER.blob
        assert all("authorization" not in r.headers and "x-secret" not in r.headers for r in storage.requests)
        assert storage.requests[0].query == {"signature": "x"}
        assert fake.requests[-1].headers["x-secret"] == "1"


@pytest.mark.parametrize("challenge", ['Bearer realm="http://{}/token"', 'Basic realm="r"'])
def test_a_challenge_from_where_a_redirect_leads_is_not_answered(fake: fakes.Registry, challenge: str) -> None:
    """Its realm would be a token service of its own choice, which is sent user and password."""
    with fakes.running() as storage:
        demand = {"WWW-Authenticate": challenge.format(storage.host)}
        storage.script = lambda request, answer: answer.send(401, headers=demand)
        location = {"Location": f"http://{storage.host}/blob"}
        fake.script = lambda request, answer: "/blobs/" in request.path and answer.send(307, headers=location)
        assert refusal(lambda: read(fake, auth=SECRET)).kind is Kind.DENIED
        assert [request.path for request in storage.requests] == ["/blob"]
        assert all("authorization" not in request.headers for request in storage.requests)


@pytest.mark.parametrize("location", ["http://[x/", "http://127.0.0.1:99999/"])
def test_a_host_that_redirects_to_no_url_is_skipped(fake: fakes.Registry, tmp_path: Path, location: str) -> None:
    with fakes.running() as mirror:
        mirror.script = lambda request, answer: answer.send(302, headers={"Location": location})
        resolved = resolve.resolve(jobs.Resolve(mirrored(fake, mirror.host, directory=tmp_path), "1", AMD64))
        assert resolved.config_digest == IMAGE.id
        assert any(mirror.host in note for note in resolved.notes)


def test_a_redirect_on_the_same_host_keeps_it(fake: fakes.Registry) -> None:
    def script(request: Request, answer: Answer) -> bool:
        moved = "/blobs/" in request.path and not request.query
        return demand_basic(request, answer) or (
            moved and answer.send(302, headers={"Location": f"{request.path}?a=b"})
        )

    fake.script = script
    assert read(fake, auth=SECRET) == LAYER.blob


@pytest.mark.parametrize("location", ["ftp://x/", "file:///etc/passwd", "javascript:x"])
def test_strange_redirects_are_refused(fake: fakes.Registry, location: str) -> None:
    fake.script = lambda request, answer: answer.send(302, headers={"Location": location})
    assert refusal(lambda: run(fake)).kind is Kind.DENIED


def test_redirects_end(fake: fakes.Registry) -> None:
    fake.script = lambda request, answer: answer.send(302, headers={"Location": request.path})
    error = refusal(lambda: run(fake))
    assert "redirects more than" in error.message
    assert len(fake.requests) <= http.REDIRECTS


def test_urls_in_layers_are_never_followed(fake: fakes.Registry) -> None:
    """CVE-2020-15157: a foreign layer's URL got the credentials of the registry."""
    with fakes.running() as foreign:
        layer = {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": LAYER.digest,
            "size": len(LAYER.blob),
            "urls": [f"http://{foreign.host}/layer"],
        }
        fake.add("foreign", oci.Image([LAYER], fields={"layers": [layer]}))
        run(fake, "foreign", auth=SECRET)
        assert read(fake, auth=SECRET) == LAYER.blob
        assert foreign.requests == []


# -- mirrors


def hosts_file(directory: Path, name: str, text: str) -> list[str]:
    (directory / name).mkdir()
    (directory / name / "hosts.toml").write_text(text)
    return [str(directory)]


def mirrored(
    fake: fakes.Registry, *mirrors: str, directory: Path, capabilities: str = '["pull", "resolve"]'
) -> jobs.Source:
    text = "".join(f'[host."http://{mirror}"]\ncapabilities = {capabilities}\n' for mirror in mirrors)
    directories = hosts_file(directory, "r.example", f'server = "http://{fake.host}"\n{text}')
    return jobs.Source("r.example", "test/image", directories, auth=SECRET, stall=5)


def test_a_mirror_is_asked_first_and_told_for_whom(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as mirror:
        mirror.add("1", IMAGE)
        source = mirrored(fake, mirror.host, directory=tmp_path)
        resolved = resolve.resolve(jobs.Resolve(source, "1", AMD64))
        assert resolved.config_digest == IMAGE.id
        assert b"".join(registry.Registry(resolved.source).read_blob(BLOB)) == LAYER.blob
        assert fake.requests == []
        assert {request.query["ns"] for request in mirror.requests} == {"r.example"}
        assert not any("authorization" in request.headers for request in mirror.requests)


def test_mirrors_that_fail_are_skipped_and_named_once(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as empty:
        with fakes.running() as gone:
            pass
        source = mirrored(fake, gone.host, empty.host, directory=tmp_path)
        resolved = resolve.resolve(jobs.Resolve(source, "1", AMD64))
        assert resolved.config_digest == IMAGE.id
        assert sum(gone.host in note for note in resolved.notes) == 1
        assert any(empty.host in note and "404" in note for note in resolved.notes)
        assert resolved.source.unreachable == [f"http://{gone.host}/v2"]
        again = registry.Registry(resolved.source)
        assert b"".join(again.read_blob(BLOB)) == LAYER.blob
        assert not any(gone.host in note for note in again.notes)


def test_a_lying_mirror_is_skipped_for_documents(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as mirror:
        mirror.script = lambda request, answer: answer.send(200, b"{}", {"Docker-Content-Digest": oci.sha256(b"x")})
        source = mirrored(fake, mirror.host, directory=tmp_path)
        assert resolve.resolve(jobs.Resolve(source, IMAGE.digest, AMD64)).config_digest == IMAGE.id


def test_a_mirror_that_dies_in_a_blob_hands_over(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as mirror:
        mirror.script = cut_at(*[300_000] * 100)
        source = mirrored(fake, mirror.host, directory=tmp_path)
        assert b"".join(registry.Registry(source).read_blob(BLOB)) == LAYER.blob
        assert fake.requests[0].headers["range"] == "bytes=300000-"


def test_a_mirror_without_resolve_is_not_asked_for_tags(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as mirror:
        mirror.add("1", IMAGE)
        source = mirrored(fake, mirror.host, directory=tmp_path, capabilities='["pull"]')
        resolve.resolve(jobs.Resolve(source, "1", AMD64))
        assert mirror.asked(ending="/manifests/1") == []
        assert mirror.asked(ending=IMAGE.id) != []


def test_the_registrys_own_answer_counts_and_tells_of_mirrors(fake: fakes.Registry, tmp_path: Path) -> None:
    with fakes.running() as mirror:
        source = mirrored(fake, mirror.host, directory=tmp_path)
        fake.script = lambda request, answer: answer.send(403)
        error = refusal(lambda: resolve.resolve(jobs.Resolve(source, "absent", AMD64)))
        assert error.kind is Kind.DENIED
        assert any(mirror.host in note for note in error.__notes__)
