"""Docker's reference rules (distribution/reference: reference_test.go, normalize_test.go are the model)."""

from __future__ import annotations

import pytest

from ropewalk.errors import Invalid
from ropewalk.images import reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/user/app:1", "docker.io/user/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("[fe80::1]/app:x", "[fe80::1]/app:x"),
        ("Upper/app", "Upper/app:latest"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ("gcr.io/a__b/c-d.e:T_1.x-y", "gcr.io/a__b/c-d.e:T_1.x-y"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        ("x@sha512:" + "ab" * 64, "docker.io/library/x@sha512:" + "ab" * 64),
        ("a---b/c", "docker.io/a---b/c:latest"),
    ],
)
def test_a_reference_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(reference.parse(text)) == canonical
    assert str(reference.parse(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "@" + DIGEST,
        "busybox:",
        "busybox@",
        "busybox@sha256:abc",
        "busybox@sha256:" + "A" * 64,
        "busybox@md5:" + "a" * 32,
        "busybox@sha256:../../etc/passwd",
        "UPPER",
        "a/UPPER/b",
        "a//b",
        "/a",
        "a/",
        "../a",
        "a/../b",
        "a b",
        "a\nb",
        "a:b:c/d",
        "-a/b.c:x",
        "host.:5000/a",
        "host.io:/a",
        "host.io:port/a",
        "a:" + "x" * 129,
        "a" * 256,
        "ab..cd",
        "a_-b",
        "busybox:tag@tag@" + DIGEST,
        "0123456789abcdef" * 4,
        "é/x",
        "x\0",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        reference.parse(text)


def test_the_parts_of_a_reference() -> None:
    parsed = reference.parse(f"localhost:5000/a/b:1@{DIGEST}")
    assert (parsed.registry, parsed.repository, parsed.tag, parsed.digest) == ("localhost:5000", "a/b", "", DIGEST)
    assert parsed.name == "localhost:5000/a/b"
    assert parsed.target == DIGEST
    assert reference.parse("a:1").target == "1"


def test_only_registered_digests_are_digests() -> None:
    assert reference.is_digest(DIGEST)
    assert not reference.is_digest(DIGEST + "\n")
    assert not reference.is_digest(DIGEST.upper())
    assert not reference.is_digest("sha1:" + "0" * 40)
