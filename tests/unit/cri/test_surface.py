"""docs/conformance.md says truly which methods of the CRI are not served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc

from ropewalk.wire.pb import cri_pb2 as pb
from tests.unit.cri.conftest import Node

SERVICES = ("RuntimeService", "ImageService")
METHODS = {
    f"/runtime.v1.{service}/{method.name}": method
    for service in SERVICES
    for method in pb.DESCRIPTOR.services_by_name[service].methods
}


def first_column(repository: Path, title: str) -> set[str]:
    """What is named there in the table of a section of docs/conformance.md."""
    text = (repository / "docs/conformance.md").read_text()
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def listed(repository: Path) -> set[str]:
    return first_column(repository, "The CRI, method by method")


async def is_served(node: Node, path: str) -> bool:
    """Whether the method answers an empty request with anything but UNIMPLEMENTED."""
    method = METHODS[path]
    make: Any = node.channel.unary_stream if method.server_streaming else node.channel.unary_unary
    call = make(path)(b"")
    try:
        if method.server_streaming:
            _ = [reply async for reply in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


async def test_the_table_names_what_answers_unimplemented_and_nothing_else(node: Node, repository: Path) -> None:
    missing = {path.rpartition("/")[2] for path in METHODS if not await is_served(node, path)}
    assert missing == listed(repository)


def test_it_counts_right(repository: Path) -> None:
    text = (repository / "docs/conformance.md").read_text()
    found = re.search(r"Of the (\d+) methods of runtime.v1 .* (\d+) are served", text)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (len(METHODS), len(METHODS) - len(listed(repository)))


def test_every_field_of_a_request_is_read_or_told_to_change_nothing(repository: Path) -> None:
    """The requests' own; what is inside of them, wire/structural.py takes whole or refuses."""
    source = "".join(path.read_text() for path in (repository / "ropewalk/cri").glob("*.py"))
    unread = {
        f"{method.input_type.name}.{field.name}"
        for method in METHODS.values()
        for field in method.input_type.fields
        if not re.search(rf"\brequest\.({field.name}\b|HasField\(.{field.name}.\))", source)
    }
    unserved = {
        f"{METHODS[path].input_type.name}." for path in METHODS if path.rpartition("/")[2] in listed(repository)
    }
    told = {name for name in first_column(repository, "Fields that change nothing") if "Request." in name}
    assert {name for name in unread if not name.startswith(tuple(unserved))} == told
