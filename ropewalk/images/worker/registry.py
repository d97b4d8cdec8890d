"""The distribution API as a pull needs it: manifests and blobs of one repository, from the first host that has them.

Every byte is checked against the digest and the size that led to it. A mirror that fails is skipped with a note;
the registry itself comes last and its answer counts.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from urllib3.exceptions import HTTPError, ReadTimeoutError

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import descriptor, jobs
from ropewalk.images.descriptor import BadDocument, Descriptor
from ropewalk.images.worker import hosts, http

CUTS = 50  # of one blob's transfer, whatever progress each made
BUDGET = 4  # consecutive cuts without a new byte; a stall counts twice
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

T = TypeVar("T")


class Cut(Exception):
    """The transfer ended early; it can go on where it stopped."""


class Registry:
    """One repository. `notes` says which hosts were skipped and why."""

    def __init__(self, source: jobs.Source) -> None:
        self.source = source
        self.notes: list[str] = []
        self._unreachable = set(source.unreachable)
        found = hosts.read_hosts(source.registry, source.hosts_directories)
        self._clients = [http.Client(host, source.registry, source.auth, source.stall) for host in found]
        for client in self._clients:
            client.authorization = source.grants.get(client.host.url, "")

    def learnt(self) -> jobs.Source:
        """The source with what the next worker need not find out again."""
        grants = {client.host.url: client.authorization for client in self._clients if client.authorization}
        source = self.source
        return jobs.Source(
            registry=source.registry,
            repository=source.repository,
            hosts_directories=source.hosts_directories,
            auth=source.auth,
            stall=source.stall,
            grants=grants,
            unreachable=sorted(self._unreachable),
        )

    def _ask(self, capability: str, what: str, ask: Callable[[http.Client], T]) -> T:
        """The first host's answer; the last one's error."""
        errors: list[RopewalkError] = []
        for client in self._able(capability):
            try:
                answer = ask(client)
            except RopewalkError as error:
                errors.append(error)
                if isinstance(error, http.Unreachable):
                    self._unreachable.add(client.host.url)
                continue
            self._skip(errors)
            return answer
        raise self._failed(capability, what, errors)

    def _able(self, capability: str) -> list[http.Client]:
        """Whom to ask: those that may, without those known to be away unless nobody else is left."""
        able = [client for client in self._clients if capability in client.host.capabilities]
        return [client for client in able if client.host.url not in self._unreachable] or able[-1:]

    def _failed(self, capability: str, what: str, errors: list[RopewalkError]) -> RopewalkError:
        """The last host's error, with what was seen of the others."""
        if not errors:
            return RopewalkError(f"no host of {self.source.registry} may {capability} {what}", kind=Kind.UNAVAILABLE)
        self._skip(errors[:-1])
        for note in self.notes:
            errors[-1].add_note(note)
        return errors[-1]

    def _skip(self, errors: list[RopewalkError]) -> None:
        for error in errors:
            note = f"skipped a mirror: {error.message}"
            if note not in self.notes:
                self.notes.append(note)

    def head_digest(self, target: str) -> str:
        """The digest that a tag stands for now, as the registry says; "" if it does not say."""

        def ask(client: http.Client) -> str:
            headers = {"Accept": descriptor.ACCEPT}
            path = f"{self.source.repository}/manifests/{target}"
            with client.get(path, self.source.repository, headers, method="HEAD") as response:
                return str(response.headers.get("Docker-Content-Digest", ""))

        return self._ask(hosts.RESOLVE, target, ask)

    def fetch_manifest(self, target: str, expected: Descriptor | None) -> tuple[Descriptor, bytes, str]:
        """(descriptor, bytes, Content-Type) of a manifest or index, its digest checked. `expected`: what led here."""
        pinned = expected.digest if expected else target if ":" in target else ""

        def ask(client: http.Client) -> tuple[Descriptor, bytes, str]:
            headers = {"Accept": descriptor.ACCEPT}
            path = f"{self.source.repository}/manifests/{target}"
            data, answered = self._read_whole(client, path, headers, descriptor.MAX_DOCUMENT)
            content_type = answered.get("Content-Type", "")
            said = answered.get("Docker-Content-Digest", "")
            digest = _check_bytes(client, path, data, pinned or said, expected.size if expected else None)
            return Descriptor(content_type, digest, len(data)), data, content_type

        return self._ask(hosts.PULL if pinned else hosts.RESOLVE, target, ask)

    def fetch_config(self, config: Descriptor) -> bytes:
        """A config blob, its digest and size checked."""
        if config.size > descriptor.MAX_DOCUMENT:
            raise BadDocument(f"config {config.digest} has {config.size} bytes, at most {descriptor.MAX_DOCUMENT}")

        def ask(client: http.Client) -> bytes:
            path = f"{self.source.repository}/blobs/{config.digest}"
            data, _ = self._read_whole(client, path, {}, config.size)
            _check_bytes(client, path, data, config.digest, config.size)
            return data

        return self._ask(hosts.PULL, config.digest, ask)

    def _read_whole(
        self, client: http.Client, path: str, headers: dict[str, str], limit: int
    ) -> tuple[bytes, Mapping[str, str]]:
        """(body, headers) of a small answer; asked again where the connection is cut."""
        for attempt in range(http.TRIES):
            with client.get(path, self.source.repository, headers) as response:
                try:
                    data = http.read(response, limit)
                except (HTTPError, OSError) as error:
                    if isinstance(error, ReadTimeoutError) or attempt == http.TRIES - 1:
                        raise client.unreachable(error) from error
                    time.sleep(http.pause(attempt))
                    continue
            if len(data) > limit:
                raise BadDocument(f"{client.host.name} sends more than {limit} bytes for {path}")
            return data, response.headers
        raise http.Unreachable(f"{client.host.name} gave no whole answer in {http.TRIES} tries")

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Exactly `blob.size` bytes in pieces; their digest is the caller's to check, who sees each piece anyway.
        A cut transfer goes on where it stopped, on the next host if need be."""
        at, errors = 0, list[RopewalkError]()
        for client in self._able(hosts.PULL):
            try:
                for piece in self._transfer(client, blob, at):
                    at += len(piece)
                    yield piece
            except RopewalkError as error:
                errors.append(error)
                continue
            self._skip(errors)
            return
        raise self._failed(hosts.PULL, blob.digest, errors)

    def _transfer(self, client: http.Client, blob: Descriptor, at: int) -> Iterator[bytes]:
        """The blob from byte `at` on, over as many connections as it takes."""
        budget = BUDGET
        for cut in range(CUTS):
            start = at
            try:
                for piece in self._connection(client, blob, at):
                    at += len(piece)
                    yield piece
                if at == blob.size:
                    return
                problem: Exception = Cut(f"the connection ended after {at} of {blob.size} bytes")
            except (HTTPError, OSError) as error:
                problem = error
            budget = BUDGET if at > start else budget
            budget -= 2 if isinstance(problem, ReadTimeoutError) else 1
            if budget <= 0 or cut == CUTS - 1:
                raise client.unreachable(problem) from problem
            time.sleep(http.pause(BUDGET - budget - 1))

    def _connection(self, client: http.Client, blob: Descriptor, at: int) -> Iterator[bytes]:
        """What one connection yields of the bytes from `at` on. Raises urllib3's errors where it is cut."""
        path = f"{self.source.repository}/blobs/{blob.digest}"
        headers = {"Range": f"bytes={at}-"} if at else {}
        if at == blob.size:
            return
        with client.get(path, self.source.repository, headers) as response:
            begin = _begins_at(response.status, response.headers.get("Content-Range", ""))
            if begin > at:
                raise BadDocument(f"{client.host.name} answers from byte {begin} of {blob.digest} on, not from {at}")
            skip = at - begin
            length = response.headers.get("Content-Length", "")
            if length.isdigit() and int(length) != blob.size - at + skip:
                raise BadDocument(
                    f"{client.host.name} says {blob.digest} has {int(length) + at - skip} bytes, not {blob.size}"
                )
            left = blob.size - at
            while piece := response.read(http.CHUNK, decode_content=False):
                if skip:
                    skip, piece = max(0, skip - len(piece)), piece[skip:]
                if len(piece) > left:
                    raise BadDocument(f"{client.host.name} sends more than the {blob.size} bytes of {blob.digest}")
                left -= len(piece)
                if piece:
                    yield piece


def _begins_at(status: int, content_range: str) -> int:
    """Where a response's bytes begin: 0 of a 200, whatever was asked for."""
    if status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        raise BadDocument(f"a partial answer says no range ({content_range[:60]!r})")
    return int(match.group(1))


def _check_bytes(client: http.Client, path: str, data: bytes, digest: str, size: int | None) -> str:
    """The digest of `data`, which must be `digest` if that is given; sha256 otherwise."""
    if size is not None and len(data) != size:
        raise BadDocument(f"{client.host.name} sends {len(data)} bytes for {path}, not {size}")
    algorithm = digest.partition(":")[0] if digest else "sha256"
    if algorithm not in ("sha256", "sha512"):
        raise BadDocument(f"{client.host.name} gives {path} a digest of unknown kind {digest[:80]!r}")
    computed = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if digest and computed != digest:
        raise BadDocument(f"{client.host.name} sends {computed} for {path}, not {digest}")
    return computed
