"""Documents are believed only where body, header and descriptor agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ropewalk.errors import Kind, RopewalkError, Unsupported
from ropewalk.images import descriptor
from ropewalk.images.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    BadDocument,
    Index,
    Manifest,
)
from tests.fakes import oci

LAYER = oci.layer([oci.File("a", b"a")])
IMAGE = oci.Image([LAYER])
DESCRIPTION = {"mediaType": OCI_MANIFEST, "digest": IMAGE.digest, "size": len(IMAGE.manifest)}
CONFIG = {"mediaType": descriptor.OCI_CONFIG, "digest": IMAGE.id, "size": 1}


def parse(document: dict[str, Any] | bytes, content_type: str = "", expected: str = "") -> tuple[str, Index | Manifest]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return descriptor.parse_document(data, content_type, "test", expected=expected)


@pytest.mark.parametrize("content_type", [OCI_MANIFEST, OCI_MANIFEST + "; charset=utf-8", "application/json", ""])
def test_a_manifest_is_parsed(content_type: str) -> None:
    media_type, manifest = parse(IMAGE.manifest, content_type)
    assert media_type == OCI_MANIFEST
    assert isinstance(manifest, Manifest)
    assert [layer.digest for layer in manifest.layers] == [LAYER.digest]


def test_docker_documents_are_parsed() -> None:
    docker = oci.Image([LAYER._replace(media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")], docker=True)
    assert parse(docker.manifest, DOCKER_MANIFEST)[0] == DOCKER_MANIFEST
    media_type, index = parse(oci.index([docker.describe()], DOCKER_LIST), DOCKER_LIST)
    assert media_type == DOCKER_LIST
    assert isinstance(index, Index)


def test_an_oci_document_may_leave_its_type_to_the_header() -> None:
    image = oci.Image([LAYER], fields={"mediaType": None})
    assert parse(image.manifest, OCI_MANIFEST)[0] == OCI_MANIFEST
    with pytest.raises(BadDocument):
        parse(image.manifest, "application/json")


@pytest.mark.parametrize(
    ("document", "content_type", "expected"),
    [
        (IMAGE.manifest, OCI_INDEX, ""),
        (IMAGE.manifest, DOCKER_MANIFEST, ""),
        (IMAGE.manifest, OCI_MANIFEST, DOCKER_MANIFEST),
        (IMAGE.manifest, "", OCI_INDEX),
        (oci.index([DESCRIPTION]), OCI_MANIFEST, ""),
        (oci.index([DESCRIPTION], config=CONFIG), OCI_INDEX, ""),
        (oci.index([DESCRIPTION], layers=[]), OCI_INDEX, ""),
        (oci.Image([LAYER], fields={"manifests": [DESCRIPTION]}).manifest, OCI_MANIFEST, ""),
        (oci.Image([LAYER], fields={"manifests": [], "mediaType": None}).manifest, OCI_MANIFEST, ""),
        (oci.Image([LAYER], fields={"config": None, "layers": None}).manifest, OCI_MANIFEST, ""),
        ({"schemaVersion": 2, "mediaType": OCI_MANIFEST}, OCI_MANIFEST, ""),
        ({"schemaVersion": 2, "mediaType": "text/plain"}, "text/plain", ""),
        (b"", OCI_MANIFEST, ""),
        (b"\xff\xfe", OCI_MANIFEST, ""),
        (b"[]", OCI_MANIFEST, ""),
        (b"{", OCI_MANIFEST, ""),
        (b'{"schemaVersion":2,"x":' + b"[" * 100_000, OCI_MANIFEST, ""),
        (b" " * (descriptor.MAX_DOCUMENT + 1), OCI_MANIFEST, ""),
        ({"schemaVersion": "2", "mediaType": OCI_MANIFEST}, OCI_MANIFEST, ""),
    ],
)
def test_confused_documents_are_refused(document: dict[str, Any] | bytes, content_type: str, expected: str) -> None:
    with pytest.raises(BadDocument) as caught:
        parse(document, content_type, expected)
    assert caught.value.kind is Kind.CORRUPT


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"schemaVersion": 1, "fsLayers": [], "history": []}, descriptor.DOCKER_SCHEMA1 + "+prettyjws"),
        ({"schemaVersion": 1}, "application/json"),
    ],
)
def test_schema_1_is_refused_in_clear_words(document: dict[str, Any], content_type: str) -> None:
    with pytest.raises(Unsupported, match=r"schema 1.*push the image once"):
        parse(document, content_type)


@pytest.mark.parametrize(
    "bad",
    [
        {"digest": "sha256:abc"},
        {"digest": "sha256:../../../etc"},
        {"digest": "md5:" + "0" * 32},
        {"size": -1},
        {"size": 1.5},
        {"size": None},
    ],
)
def test_malformed_descriptors_are_refused(bad: dict[str, Any]) -> None:
    layer = {"mediaType": LAYER.media_type, "digest": LAYER.digest, "size": 1, **bad}
    for document in ({"layers": [layer]}, {"config": {**CONFIG, **bad}}):
        with pytest.raises(BadDocument):
            parse(oci.Image([LAYER], fields=document).manifest, OCI_MANIFEST)
    with pytest.raises(BadDocument):
        parse(oci.index([{**DESCRIPTION, **bad}]), OCI_INDEX)


def test_fan_out_is_bounded() -> None:
    layer = {"mediaType": LAYER.media_type, "digest": LAYER.digest, "size": 1}
    with pytest.raises(BadDocument, match="513 layers"):
        parse(oci.Image([], fields={"layers": [layer] * 513}).manifest, OCI_MANIFEST)
    with pytest.raises(BadDocument, match="1025 manifests"):
        parse(oci.index([DESCRIPTION] * 1025), OCI_INDEX)


def test_artifacts_and_encrypted_layers_are_said_to_be_so() -> None:
    empty = {**CONFIG, "mediaType": "application/vnd.oci.empty.v1+json"}
    with pytest.raises(Unsupported, match="artifact"):
        parse(oci.Image([LAYER], fields={"config": empty}).manifest, OCI_MANIFEST)
    encrypted = oci.Image([LAYER._replace(media_type=LAYER.media_type + "+encrypted")])
    with pytest.raises(Unsupported, match="encrypted"):
        parse(encrypted.manifest, OCI_MANIFEST)
    helm = oci.Image([LAYER._replace(media_type="application/vnd.cncf.helm.chart.content.v1.tar+gzip")])
    with pytest.raises(Unsupported, match="not a tar archive"):
        parse(helm.manifest, OCI_MANIFEST)


def test_a_config_becomes_what_a_container_needs() -> None:
    run: dict[str, Any] = {
        "User": "1000:100",
        "Env": ["A=1"],
        "Entrypoint": None,
        "Cmd": ["sh"],
        "WorkingDir": "/w",
        "Labels": {"a": "b"},
        "StopSignal": "SIGQUIT",
        "Volumes": {"/b": {}, "/a": {}},
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "x"]},
    }
    image = oci.Image([LAYER], run)
    _, manifest = parse(image.manifest, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    config = descriptor.parse_config(image.config, manifest, "test")
    assert config.run.user == "1000:100"
    assert config.run.entrypoint == []
    assert config.run.cmd == ["sh"]
    assert config.run.volumes == ["/a", "/b"]
    assert config.run.exposed_ports == ["80/tcp"]
    assert config.platform == descriptor.Platform("linux", "amd64")
    assert config.diff_ids == [LAYER.diff_id]


@pytest.mark.parametrize(
    "config",
    [
        b"{}",
        b'{"rootfs": null}',
        b'{"rootfs": {"diff_ids": []}}',
        b'{"rootfs": {"diff_ids": ["sha256:x"]}}',
        b'{"rootfs": {"diff_ids": ["sha256:' + b"0" * 64 + b'", "sha256:' + b"0" * 64 + b'"]}}',
        b'{"config": {"Env": "A=1"}}',
        b"null",
    ],
)
def test_a_config_must_match_its_manifest(config: bytes) -> None:
    manifest = Manifest(descriptor.Descriptor(**_arguments(CONFIG)), [descriptor.Descriptor("x", LAYER.digest, 1)])
    with pytest.raises(RopewalkError):
        descriptor.parse_config(config, manifest, "test")


def test_builders_write_null_for_no_layers() -> None:
    manifest = Manifest(descriptor.Descriptor(**_arguments(CONFIG)), [])
    for config in (b'{"rootfs": {"diff_ids": null}}', b'{"rootfs": null}', b"{}"):
        assert descriptor.parse_config(config, manifest, "test").diff_ids == []


def _arguments(document: dict[str, Any]) -> dict[str, Any]:
    return {"media_type": document["mediaType"], "digest": document["digest"], "size": document["size"]}
