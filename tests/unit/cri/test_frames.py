"""Lists as bytes equal the messages they stand for."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.cri import frames, translate
from ropewalk.images.store import Image
from ropewalk.state.store import Table
from ropewalk.wire.pb import cri_pb2 as pb
from tests.fakes import domain


@given(st.integers(1, 2**64 - 1))
def test_varints_are_protobufs(value: int) -> None:
    assert b"\x08" + frames.varint(value) == UInt64Value(value=value).SerializeToString()


@given(st.lists(st.text(max_size=300), max_size=5))
def test_joined_frames_are_a_list_reply(ids: list[str]) -> None:
    containers = [pb.Container(id=id) for id in ids]
    joined = b"".join(map(frames.element, containers))
    assert (
        pb.ListContainersResponse.FromString(joined).containers
        == pb.ListContainersResponse(containers=containers).containers
    )


def test_chunks_hold_every_element_once() -> None:
    elements = [bytes([i]) * (frames.CHUNK // 3) for i in range(10)]
    made = list(frames.chunks(elements))
    assert b"".join(made) == b"".join(elements)
    assert [len(chunk) // (frames.CHUNK // 3) for chunk in made] == [3, 3, 3, 1]
    assert list(frames.chunks([b"x" * (2 * frames.CHUNK)])) == [b"x" * (2 * frames.CHUNK)]
    assert list(frames.chunks([])) == []


def test_frames_are_kept_as_long_as_their_records(tmp_path: Path) -> None:
    """Statistics are read meanwhile: what has gone by then is told once more, and not remembered."""
    database = domain.database(tmp_path)
    table = Table(database, "images", Image, noun="image")
    kept = frames.Frames(translate.image, table)
    image = domain.image()
    table.add(image)
    frame = kept.frame(image)
    assert kept.frame(image) is frame
    table.remove(image.id)
    assert kept.frame(image) is not frame
    assert kept.frame(image) == frame
    assert not kept._frames
    database.close()
