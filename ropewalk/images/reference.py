"""Image references, by Docker's rules (distribution/reference, reference.go).

`name[:tag][@digest]`: no registry means docker.io, one component there means library/, neither tag nor digest
means `latest`, and a digest wins over a tag.
"""

from __future__ import annotations

import re

from msgspec import Struct

from ropewalk.errors import Invalid

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255  # reference.go: NameTotalLengthMax

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_BARE_ID = re.compile(r"[0-9a-f]{64}")


class Reference(Struct, frozen=True):
    """A canonical reference: exactly one of `tag` and `digest` is set."""

    registry: str  # "docker.io", "localhost:5000", "[::1]:5000"
    repository: str  # "library/busybox"
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the tag or the digest."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def is_digest(text: str) -> bool:
    """The digest grammar (image-spec, descriptor.md), narrowed to the two registered algorithms."""
    return _DIGEST.fullmatch(text) is not None


def parse(text: str) -> Reference:
    """The canonical form of what a user wrote. Raises Invalid, naming the part that is wrong."""
    if not text:
        raise Invalid("the image reference is empty")
    if _BARE_ID.fullmatch(text):
        raise Invalid(f"{text!r} is an image id, not a reference", hint="pull by name, tag or digest")
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise Invalid(f"reference {text!r} has a bad digest {digest!r}", hint="sha256: and 64 lower-case hex digits")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise Invalid(f"reference {text!r} has a bad tag {tag!r}")
    registry, repository = _split_name(name)
    _check_name(text, registry, repository)
    if digest:
        return Reference(registry, repository, digest=digest)
    return Reference(registry, repository, tag=DEFAULT_TAG if tag is None else tag)


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; an earlier one is a port."""
    colon = text.rfind(":")
    if colon > text.rfind("/"):
        return text[:colon], text[colon + 1 :]
    return text, None


def _split_name(name: str) -> tuple[str, str]:
    """The first component is a registry if it looks like a host: a dot, a colon, upper case, or localhost."""
    first, slash, rest = name.partition("/")
    is_host = bool(slash) and (first == "localhost" or "." in first or ":" in first or first != first.lower())
    registry, repository = (first, rest) if is_host else (DOCKER_HUB, name)
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _check_name(text: str, registry: str, repository: str) -> None:
    if not _DOMAIN.fullmatch(registry):
        raise Invalid(f"reference {text!r} has a bad registry host {registry!r}")
    for component in repository.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise Invalid(
                f"reference {text!r} has a bad repository name {repository!r}",
                hint="lower-case letters and digits, separated by one of . _ __ -",
            )
    if len(repository) > MAX_NAME:
        raise Invalid(
            f"reference {text[:40]!r}… has a repository name of {len(repository)} characters, at most {MAX_NAME}"
        )
