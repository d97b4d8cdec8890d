"""Images by id, tag, digest and prefix; tags that move; what a removal takes along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ropewalk.errors import Invalid, Kind, RopewalkError
from ropewalk.images import jobs, store
from ropewalk.images.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor
from ropewalk.images.store import Image, Images, Layer
from ropewalk.spec.image import ImageConfig
from ropewalk.state.database import Database


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def plan(number: int) -> jobs.LayerPlan:
    return jobs.LayerPlan(Descriptor("layer", digest(0xB000 + number), 100), digest(number), digest(0xC000 + number))


def image(number: int, *tags: str, layers: tuple[int, ...] = (1,), user: str = "") -> Image:
    root = digest(0xA000 + number)
    names = {f"docker.io/library/{tag}": root for tag in tags}
    names |= {f"docker.io/library/{tag.partition(':')[0]}@{root}": root for tag in tags or ("x",)}
    return Image(
        id=digest(number),
        names=names,
        documents=[Descriptor(OCI_MANIFEST, root, 10), Descriptor(OCI_CONFIG, digest(number), 5)],
        layers=[plan(layer) for layer in layers],
        size=105,
        config=ImageConfig(user=user),
    )


Reopen = Callable[[], Images]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Reopen]:
    databases: list[Database] = []

    def open() -> Images:
        for database in databases:
            database.close()
        databases[:] = [Database(str(tmp_path / "state.db"))]
        return Images(databases[0], pinned=["pinned:1"])

    yield open
    databases[0].close()


@pytest.fixture
def images(reopen: Reopen) -> Images:
    return reopen()


def test_an_image_is_found_by_every_name_it_has(images: Images) -> None:
    one = images.record(image(0x1111, "a:1", "b:2"))
    images.record(image(0x2222, "c:1"))
    for text in (one.id, one.id[7:], "a:1", "docker.io/library/b:2", f"a@{digest(0xB111)}", "library/a:1"):
        assert images.find(text) is one
    assert images.find("a:2") is None
    assert images.find("A:1") is None
    assert images.find("nothing/here") is None


def test_id_prefixes_must_be_unique(images: Images) -> None:
    one = images.record(image(0xABCD << 240, "a:1"))
    two = images.record(image(0xABCE << 240, "b:1"))
    assert images.find("abcd") is one
    assert images.find("sha256:abce") is two
    with pytest.raises(Invalid, match="ambiguous"):
        images.find("abc")
    with pytest.raises(Invalid, match="empty"):
        images.find("")


def test_a_name_comes_before_a_prefix(images: Images) -> None:
    images.record(image(0xFACE << 240, "a:1"))
    named = images.record(image(2, "face:latest"))
    assert images.find("face") is named


def test_a_tag_moves_to_the_image_pulled_last(images: Images, reopen: Reopen) -> None:
    images.record(image(1, "a:1", "b:1"))
    images.record(image(2, "a:1"))
    for now in (images, reopen()):
        old, new = now.table[digest(1)], now.table[digest(2)]
        assert old.tags == ["docker.io/library/b:1"]
        assert f"docker.io/library/a@{digest(0xA001)}" in old.digests
        assert new.tags == ["docker.io/library/a:1"]
        assert now.find("a:1") is new


def test_a_tag_that_two_rows_have_after_a_kill_is_the_later_ones(images: Images, reopen: Reopen) -> None:
    images.record(image(1, "a:1"))
    stale = images.table[digest(1)]
    images.record(image(2, "a:1"))
    images.table.apply(digest(1), lambda _: stale)
    again = reopen()
    assert again.find("a:1") is again.table[digest(2)]
    assert again.table[digest(1)].tags == []


class FillsUp(Database):
    """A disk on which there is room for so many rows more."""

    room = 1000

    def put(self, table: str, id: str, document: bytes, *, durable: bool = False) -> None:
        if not self.room:
            raise RopewalkError("disk is full", kind=Kind.EXHAUSTED)
        self.room -= 1
        super().put(table, id, document, durable=durable)


def test_a_tag_moves_although_the_disk_fills_up_meanwhile(tmp_path: Path) -> None:
    """The image is on disk by then, and the next start takes the tag from the other one anyway."""
    database = FillsUp(str(tmp_path / "state.db"))
    images = Images(database)
    images.record(image(1, "a:1"))
    database.room = 1
    images.record(image(2, "a:1"))
    assert (images.table[digest(1)].tags, images.table[digest(2)].tags) == ([], ["docker.io/library/a:1"])
    database.close()


def test_pulling_again_keeps_earlier_names(images: Images) -> None:
    images.record(image(1, "a:1"))
    both = images.record(image(1, "b:1"))
    assert both.tags == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert len(images.list()) == 1
    assert images.list("b:1") == [both]
    assert images.list("c:1") == []


def test_remove_by_any_reference_forgets_every_name(images: Images, reopen: Reopen) -> None:
    for text in (digest(1), "a:1", f"b@{digest(0xA001)}", digest(1)[7:]):
        images.record(image(1, "a:1", "b:1"))
        removed = images.remove(text)
        assert removed is not None
        assert images.find("a:1") is images.find("b:1") is images.find(digest(1)) is None
        assert images.remove(text) is None
    assert reopen().list() == []


def test_configured_references_are_pinned(images: Images) -> None:
    assert images.record(image(1, "pinned:1")).pinned
    assert images.record(image(1, "other:1")).pinned
    assert not images.record(image(2, "free:1")).pinned


def test_other_references_are_pinned_from_now_on(images: Images, reopen: Reopen) -> None:
    for number, tag in ((1, "pinned:1"), (2, "free:1")):
        images.record(image(number, tag))
    with pytest.raises(Invalid):
        images.pin(["free:1", "UPPER"])
    assert [found.pinned for found in images.list()] == [True, False]
    images.pin(["free:1"])
    assert [found.pinned for found in images.list()] == [False, True]
    assert [found.pinned for found in reopen().list()] == [True, False], "the configuration of the start decides"


def test_a_pin_goes_with_its_tag(images: Images) -> None:
    images.record(image(1, "pinned:1"))
    images.record(image(2, "pinned:1"))
    assert [found.pinned for found in images.list()] == [False, True]


@pytest.mark.parametrize(
    ("user", "uid", "name"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1002", 1002, ""),
        ("1003:users", 1003, ""),
        ("www-data", None, "www-data"),
        ("www-data:www-data", None, "www-data"),
        ("4294967296", None, "4294967296"),
        ("9" * 5000, None, "9" * 5000),
        ("-1", None, "-1"),
        ("1e3", None, "1e3"),
        ("١", None, "١"),
    ],
)
def test_a_user_is_a_number_or_a_name(user: str, uid: int | None, name: str) -> None:
    assert (image(1, user=user).uid, image(1, user=user).username) == (uid, name)


def test_the_topmost_layer_that_says_anything_about_accounts_decides(images: Images) -> None:
    accounts = {
        1: jobs.Account(content=b"base"),
        2: jobs.Account(),
        3: jobs.Account(gone=True),
        4: jobs.Account(b"top"),
    }
    for number, account in accounts.items():
        images.layers.add(Layer(id=plan(number).chain_id, diff_id=digest(number), blobs=[], passwd=account))

    def passwd(*numbers: int) -> bytes:
        return images.accounts(plan(number).chain_id for number in numbers)[0]

    assert passwd(1, 2) == b"base"
    assert passwd(1, 3, 2) == b""
    assert passwd(1, 3, 4, 2) == b"top"
    assert passwd(2) == passwd() == b""


def test_usage_counts_what_images_share_once_and_is_gone_with_them(images: Images) -> None:
    for number in (1, 2, 3):
        layer = Layer(id=plan(number).chain_id, diff_id=digest(number), blobs=[], bytes=1000, inodes=7)
        images.layers.add(layer)
    images.record(image(1, "a:1", layers=(1, 2)))
    images.record(image(2, "b:1", layers=(1,)))
    assert images.usage().bytes == 2 * 1000 + 2 * 100 + 2 * 15
    assert images.usage().inodes == 2 * 7 + 2 + 4
    images.remove("a:1")
    images.remove("b:1")
    assert (images.usage().bytes, images.usage().inodes) == (0, 0)


def test_layers_are_forgotten_with_their_snapshots(images: Images) -> None:
    for number in (1, 2):
        images.layers.add(Layer(id=plan(number).chain_id, diff_id=digest(number), blobs=[]))
    images.prune_layers([plan(2).chain_id])
    assert [layer.id for layer in images.layers] == [plan(2).chain_id]


def test_the_index_names_every_tag_and_keeps_untagged_images(images: Images) -> None:
    images.record(image(1, "a:1", "b:1"))
    images.record(image(2))
    entries = store.index_entries(images.list())
    names = [(entry.digest, entry.annotations.get("org.opencontainers.image.ref.name")) for entry in entries]
    assert names == [
        (digest(0xA001), "docker.io/library/a:1"),
        (digest(0xA001), "docker.io/library/b:1"),
        (digest(0xA002), None),
    ]


def test_roots_are_everything_an_image_needs() -> None:
    roots = image(1, "a:1", layers=(1, 2)).roots()
    assert roots.digests == {digest(0xA001), digest(1), digest(0xB001), digest(0xB002)}
    assert roots.snapshots == {digest(0xC001), digest(0xC002)}
