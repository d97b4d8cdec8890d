from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.state.database import Database
from ropewalk.storage import gc
from ropewalk.storage.content import Content
from ropewalk.storage.gc import Roots
from ropewalk.storage.leases import Lease, Leases
from ropewalk.storage.snapshotter import Info, SnapshotKind
from ropewalk.storage.snapshotters import overlay
from tests.fakes.inline import InlineOffload

# base <- middle <- top <- container; other
ALL = ["container", "top", "middle", "base", "other"]
BLOBS = ["manifest", "layer"]
SNAPSHOTS = [
    Info(SnapshotKind.COMMITTED, "base"),
    Info(SnapshotKind.COMMITTED, "middle", "base"),
    Info(SnapshotKind.COMMITTED, "top", "middle"),
    Info(SnapshotKind.ACTIVE, "container", "top"),
    Info(SnapshotKind.COMMITTED, "other"),
]
IMAGE = Roots(digests=frozenset({"manifest", "layer"}), snapshots=frozenset({"top"}))


@pytest.mark.parametrize(
    ("images", "containers", "leases", "blobs", "snapshots"),
    [
        ([], [], [], BLOBS, ALL),
        ([IMAGE], ["container"], [], [], ["other"]),
        ([IMAGE], [], [], [], ["container", "other"]),
        ([], ["container"], [], BLOBS, ["other"]),
        ([], ["container", "of another snapshotter"], [], BLOBS, ["other"]),
        ([], [], [Lease("l", digests=frozenset({"layer"}))], ["manifest"], ALL),
        ([], [], [Lease("l", snapshots=frozenset({"middle", "later"}))], BLOBS, ["container", "top", "other"]),
    ],
)
def test_what_nobody_reaches_is_garbage(
    images: list[Roots], containers: list[str], leases: list[Lease], blobs: list[str], snapshots: list[str]
) -> None:
    assert gc.mark(images, containers, leases, SNAPSHOTS, BLOBS) == gc.Garbage(blobs, snapshots)


@given(st.lists(st.integers(-1, 20), max_size=20), st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_ancestors_stay_and_children_go_first(parents: list[int], image: set[int], containers: set[int]) -> None:
    snapshots = [
        Info(SnapshotKind.COMMITTED, str(number), str(parent) if 0 <= parent < number else "")
        for number, parent in enumerate(parents)
    ]
    roots = {str(number) for number in image | containers}
    garbage = gc.mark([Roots(snapshots=frozenset(map(str, image)))], map(str, containers), [], snapshots, []).snapshots
    parent_of = {info.name: info.parent for info in snapshots}
    kept = set(parent_of) - set(garbage)
    assert roots & set(parent_of) <= kept
    assert {parent_of[name] for name in kept} - {""} <= kept
    for number, name in enumerate(garbage):
        assert parent_of[name] not in garbage[:number]
    with_kept_child = {parent_of[name] for name in kept}
    assert all(name in roots or name in with_kept_child for name in kept)


class Store:
    """A content store and a snapshotter with one image of two layers."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(str(directory / "state.db"))
        self.content = Content(str(directory / "content"), InlineOffload())
        self.snapshotter = overlay.Snapshotter(str(directory / "snapshots"), self.database, InlineOffload())
        self.leases = Leases(self.database)

    async def pull(self) -> Roots:
        data = b"layer"
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.leases.hold("pull", digests=[digest], snapshots=["base", "top", "extract base", "extract top"])
        await self.content.write(digest, data)
        for name, parent in (("base", ""), ("top", "base")):
            await self.snapshotter.prepare(f"extract {name}", parent)
            await self.snapshotter.commit(name, f"extract {name}")
        return Roots(digests=frozenset({digest}), snapshots=frozenset({"top"}))

    async def sweep(self, images: list[Roots], containers: list[str]) -> gc.Garbage:
        return await gc.sweep(self.content, [self.snapshotter], images, containers, self.leases)

    def names(self) -> set[str]:
        return {info.name for info in self.snapshotter.list()}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path)
    yield store
    await store.snapshotter.close()
    await store.content.close()
    store.database.close()


async def test_a_removed_image_frees_everything(store: Store) -> None:
    image = await store.pull()
    assert await store.sweep([], []) == gc.Garbage([], [])  # the pull has not ended
    store.leases.release("pull")
    assert await store.sweep([image], []) == gc.Garbage([], [])
    assert (await store.sweep([], [])).snapshots == ["top", "base"]
    assert store.content.digests() == {}
    assert store.names() == set()


async def test_a_running_container_keeps_its_layers(store: Store) -> None:
    await store.pull()
    store.leases.release("pull")
    await store.snapshotter.prepare("container", "top")
    assert (await store.sweep([], ["container"])).snapshots == []
    assert store.content.digests() == {}
    assert store.names() == {"container", "top", "base"}
    await store.snapshotter.remove("container")
    assert (await store.sweep([], [])).snapshots == ["top", "base"]


async def test_what_a_killed_container_left_goes(store: Store) -> None:
    image = await store.pull()
    store.leases.release("pull")
    await store.snapshotter.prepare("nobody's", "top")
    assert (await store.sweep([image], [])).snapshots == ["nobody's"]


async def test_a_container_that_is_made_while_another_snapshotter_is_swept_stays(store: Store) -> None:
    class First(overlay.Snapshotter):
        name = "first"

        async def remove(self, key: str) -> None:
            await super().remove(key)
            await store.snapshotter.prepare("new", "top")

    image = await store.pull()
    store.leases.release("pull")
    first = First(store.snapshotter._directory + "-first", store.database, InlineOffload())
    await first.prepare("garbage")
    swept = await gc.sweep(store.content, [first, store.snapshotter], [image], [], store.leases)
    assert swept.snapshots == ["garbage"]
    assert store.names() == {"new", "top", "base"}
    await first.close()
