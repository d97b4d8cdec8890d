"""The registry client against a registry that lies, breaks and redirects. Each lie has its kind of error."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ropewalk.errors import Kind
from ropewalk.images import descriptor
from ropewalk.images.descriptor import Descriptor
from ropewalk.images.worker import http
from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.registry import Answer, Request
from tests.unit.images.worker.scenario import IMAGE, LAYER, cut_at, read, refusal, run

# -- the truth


def test_a_tag_resolves_to_manifest_config_and_layers(fake: fakes.Registry) -> None:
    resolved = run(fake)
    assert resolved.root is not None
    assert (resolved.root.digest, resolved.config_digest) == (IMAGE.digest, IMAGE.id)
    assert [d.digest for d in resolved.documents] == [IMAGE.digest, IMAGE.id]
    (layer,) = resolved.layers
    assert (layer.descriptor.digest, layer.diff_id, layer.chain_id) == (LAYER.digest, LAYER.diff_id, LAYER.diff_id)
    assert resolved.config is not None
    assert resolved.config.run.user == "www-data"


def test_chain_ids_are_those_of_the_specification(fake: fakes.Registry) -> None:
    other = oci.layer([oci.File("b", b"b")])
    fake.add("2", oci.Image([LAYER, other, LAYER]))
    chains = [layer.chain_id for layer in run(fake, "2").layers]
    second = oci.sha256(f"{LAYER.diff_id} {other.diff_id}".encode())
    assert chains == [LAYER.diff_id, second, oci.sha256(f"{second} {LAYER.diff_id}".encode())]


def test_an_index_leads_to_the_image_of_this_platform(fake: fakes.Registry) -> None:
    arm = oci.Image([LAYER], platform=("linux", "arm64"))
    fake.add("arm", arm)
    children = [
        arm.describe(platform={"os": "linux", "architecture": "arm64"}),
        IMAGE.describe(platform={"os": "linux", "architecture": "amd64"}),
    ]
    inner = oci.index(children)
    nested = {"mediaType": descriptor.OCI_INDEX, "digest": oci.sha256(inner), "size": len(inner)}
    fake.add_index("inner", inner, descriptor.OCI_INDEX)
    fake.add_index("nested", oci.index([nested]), descriptor.OCI_INDEX)
    for tag, documents in (("inner", 3), ("nested", 4)):
        resolved = run(fake, tag)
        assert resolved.config_digest == IMAGE.id
        assert len(resolved.documents) == documents
    assert refusal(lambda: run(fake, "arm")).kind is Kind.NOT_FOUND


def test_a_digest_is_asked_for_and_checked(fake: fakes.Registry) -> None:
    assert run(fake, IMAGE.digest).config_digest == IMAGE.id
    fake.manifests[oci.sha256(b"x")] = fake.manifests["1"]
    assert refusal(lambda: run(fake, oci.sha256(b"x"))).kind is Kind.CORRUPT


def test_what_is_known_costs_one_request(fake: fakes.Registry) -> None:
    assert run(fake, known=IMAGE.digest).unchanged
    assert [r.method for r in fake.requests] == ["HEAD"]
    assert not run(fake, known=oci.sha256(b"old")).unchanged


def test_a_registry_without_head_is_asked_by_get(fake: fakes.Registry) -> None:
    fake.script = lambda request, answer: request.method == "HEAD" and answer.send(405)
    assert not run(fake, known=IMAGE.digest).unchanged


# -- lies about documents


def change(fake: fakes.Registry, *, data: bytes | None = None, type: str | None = None) -> None:
    old_type, old = fake.manifests["1"]
    fake.manifests["1"] = type or old_type, old if data is None else data


Lie = Callable[[fakes.Registry], None]


def wrong_header_digest(fake: fakes.Registry) -> None:
    headers = {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": oci.sha256(b"other")}
    fake.script = lambda request, answer: "/manifests/" in request.path and answer.send(200, IMAGE.manifest, headers)


def wrong_config(fake: fakes.Registry) -> None:
    fake.blobs[IMAGE.id] = IMAGE.config[:-1] + b" "


def short_config(fake: fakes.Registry) -> None:
    fake.blobs[IMAGE.id] = IMAGE.config[:-1]


def long_config(fake: fakes.Registry) -> None:
    fake.blobs[IMAGE.id] = IMAGE.config + b" "


def huge_manifest(fake: fakes.Registry) -> None:
    change(fake, data=IMAGE.manifest + b" " * descriptor.MAX_DOCUMENT)


def endless_manifest(fake: fakes.Registry) -> None:
    def script(request: Request, answer: Answer) -> bool:
        return answer.send(200, b"{" * (6 << 20), {"Content-Type": IMAGE.media_type, "Content-Length": str(1 << 40)})

    fake.script = script


def wrong_child_size(fake: fakes.Registry) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    data = oci.index([{**IMAGE.describe(platform=platform), "size": len(IMAGE.manifest) + 1}])
    fake.add_index("1", data, descriptor.OCI_INDEX)


def wrong_child_type(fake: fakes.Registry) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    child = {**IMAGE.describe(platform=platform), "mediaType": descriptor.DOCKER_MANIFEST}
    fake.add_index("1", oci.index([child]), descriptor.OCI_INDEX)


def endless_indexes(fake: fakes.Registry) -> None:
    data, digest = oci.index([]), ""
    for _ in range(10):
        digest = oci.sha256(data)
        fake.add_index(digest, data, descriptor.OCI_INDEX)
        data = oci.index([{"mediaType": descriptor.OCI_INDEX, "digest": digest, "size": len(data)}])
    fake.add_index("1", data, descriptor.OCI_INDEX)


def huge_config(fake: fakes.Registry) -> None:
    config = {"mediaType": descriptor.OCI_CONFIG, "digest": IMAGE.id, "size": 1 << 30}
    image = oci.Image([LAYER], fields={"config": config})
    change(fake, data=image.manifest)


@pytest.mark.parametrize(
    "lie",
    [
        wrong_header_digest,
        wrong_config,
        short_config,
        long_config,
        huge_manifest,
        endless_manifest,
        wrong_child_size,
        wrong_child_type,
        endless_indexes,
        huge_config,
        lambda fake: change(fake, type=descriptor.OCI_INDEX),
        lambda fake: change(fake, type=descriptor.DOCKER_MANIFEST),
        lambda fake: change(fake, data=b"<html>Sign in</html>", type="text/html"),
        lambda fake: change(fake, data=b""),
    ],
)
def test_lies_about_documents_are_corrupt(fake: fakes.Registry, lie: Lie) -> None:
    lie(fake)
    error = refusal(lambda: run(fake))
    assert error.kind is Kind.CORRUPT, error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.UNAVAILABLE),
        (401, Kind.DENIED),
        (403, Kind.DENIED),
        (404, Kind.NOT_FOUND),
        (418, Kind.UNAVAILABLE),
        (429, Kind.UNAVAILABLE),
        (500, Kind.UNAVAILABLE),
        (503, Kind.UNAVAILABLE),
        (204, Kind.UNAVAILABLE),
    ],
)
def test_each_status_has_its_kind_and_names_the_host(fake: fakes.Registry, status: int, kind: Kind) -> None:
    body = json.dumps({"errors": [{"code": "SAID", "message": "by the\x1b[31m registry"}]}).encode()
    fake.script = lambda request, answer: answer.send(status, b"" if status == 204 else body)
    error = refusal(lambda: run(fake))
    assert error.kind is kind
    assert fake.host in error.message
    assert "test/image/manifests/1" in error.message
    assert "\x1b" not in error.message
    assert status == 204 or "SAID: by the" in error.message


def test_nobody_at_home_is_what_the_kubelet_matches() -> None:
    with fakes.running() as gone:
        pass
    error = refusal(lambda: run(gone))
    assert error.kind is Kind.UNAVAILABLE
    assert error.message.startswith("RegistryUnavailable: ")
    assert "Connection refused" in error.message


def test_a_registry_that_says_nothing_is_given_up(fake: fakes.Registry) -> None:
    fake.script = lambda request, answer: fake.stopped.wait(5) or answer.cut()
    error = refusal(lambda: run(fake, stall=0.1))
    assert (error.kind, error.message.startswith("RegistryUnavailable")) == (Kind.UNAVAILABLE, True)
    assert "0.1 s" in error.message


# -- what can be tried again


def failing(times: int, fail: fakes.Script) -> fakes.Script:
    left = [times]

    def script(request: Request, answer: Answer) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fail(request, answer)

    return script


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_overload_passes(fake: fakes.Registry, status: int) -> None:
    fake.script = failing(3, lambda request, answer: answer.send(status, headers={"Retry-After": "0"}))
    assert run(fake).config_digest == IMAGE.id


def test_a_cut_connection_is_tried_again(fake: fakes.Registry) -> None:
    fake.script = failing(2, lambda request, answer: answer.cut())
    assert run(fake).config_digest == IMAGE.id


def test_a_cut_document_is_tried_again(fake: fakes.Registry) -> None:
    def half(request: Request, answer: Answer) -> bool:
        answer.send(200, IMAGE.manifest[:50], {"Content-Length": "400", "Content-Type": IMAGE.media_type})
        return answer.cut()

    fake.script = failing(2, half)
    assert run(fake).config_digest == IMAGE.id


def test_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert http.pause(0, "7") == 7
    assert http.pause(0, "86400") == http.MAX_PAUSE
    assert 0 < http.pause(0, "Wed, 21 Oct 2026 07:28:00 GMT") <= http.BACKOFF
    assert http.pause(50) <= http.MAX_PAUSE


# -- blobs


def test_a_blob_is_read(fake: fakes.Registry) -> None:
    assert read(fake) == LAYER.blob
    assert read(fake, Descriptor("x", oci.sha256(b""), 0)) == b""


def test_a_cut_transfer_goes_on_where_it_stopped(fake: fakes.Registry) -> None:
    fake.script = cut_at(1, 1000, 262_144, 500_001, 700_000, len(LAYER.blob) - 1)
    assert read(fake) == LAYER.blob
    ranges = [r.headers.get("range", "") for r in fake.asked(ending=LAYER.digest)]
    assert ranges[0] == ""
    assert ranges[-1] == f"bytes={len(LAYER.blob) - 1}-"


def test_a_server_without_ranges_is_read_from_the_start(fake: fakes.Registry) -> None:
    cut = cut_at(300_000)

    def script(request: Request, answer: Answer) -> bool:
        if cut(request, answer):
            return True
        return "/blobs/" in request.path and answer.send(200, LAYER.blob)

    fake.script = script
    assert read(fake) == LAYER.blob


def test_a_transfer_that_never_moves_is_given_up(fake: fakes.Registry) -> None:
    fake.script = cut_at(*[10] * 1000)
    error = refusal(lambda: read(fake))
    assert error.kind is Kind.UNAVAILABLE
    assert len(fake.requests) <= 10


def test_a_stall_in_the_middle_is_given_up(fake: fakes.Registry) -> None:
    def script(request: Request, answer: Answer) -> bool:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        headers = {"Content-Length": str(len(LAYER.blob) - start), "Content-Range": f"bytes {start}-9/9"}
        answer.send(206 if start else 200, LAYER.blob[start : start + 1000], headers)
        answer._handler.wfile.flush()
        fake.stopped.wait(5)
        return answer.cut()

    fake.script = script
    assert "sent nothing for 0.1 s" in refusal(lambda: read(fake, stall=0.1)).message


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, LAYER.blob + b"x", {}),
        (200, LAYER.blob[:-1], {}),
        (200, LAYER.blob + b"x", {"Transfer-Encoding": "identity"}),
        (206, LAYER.blob, {"Content-Range": "bytes 5-9/9"}),
        (206, LAYER.blob[5:], {"Content-Range": "bytes 5-9/9"}),
        (206, LAYER.blob, {}),
        (206, LAYER.blob, {"Content-Range": "nonsense"}),
    ],
)
def test_lies_about_a_blobs_size_are_corrupt(
    fake: fakes.Registry, status: int, body: bytes, headers: dict[str, str]
) -> None:
    fake.script = lambda request, answer: answer.send(status, body, headers)
    assert refusal(lambda: read(fake)).kind is Kind.CORRUPT
