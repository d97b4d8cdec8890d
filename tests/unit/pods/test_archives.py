"""Checkpoint archives: whole or not there, and believed little."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.pods import archives

CONFIG = archives.Config(name="main", ropewalk=archives.Origin(image_id="sha256:i", runtime_version="r 1"))
ENCODED = msgspec.json.encode(CONFIG)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What a runtime wrote."""
    directory = tmp_path / "saved"
    directory.mkdir()
    (directory / "checkpoint.img").write_bytes(b"x" * 3000)
    (directory / "pages_meta.img").write_bytes(b"")
    return directory


def forged(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.chmod(0o600)
    return str(path)


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def kind_of(path: str, into: Path, *, allowed: Path | None = None) -> Kind:
    with pytest.raises(RopewalkError) as caught:
        archives.unpack(path, [str(allowed or into.parent)], str(into))
    assert path in caught.value.message
    return caught.value.kind


def test_what_is_written_is_read_again(saved: Path, place: Path, tmp_path: Path) -> None:
    path = place / "a.tar"
    size = archives.write(str(path), str(saved), {archives.CONFIG: ENCODED, archives.SPEC: b"{}"})
    assert (path.stat().st_size, path.stat().st_mode) == (size, 0o100600)
    assert os.listdir(place) == ["a.tar"]
    with tarfile.open(path) as tar:
        assert tar.getnames() == [
            "config.dump",
            "spec.dump",
            "checkpoint",
            "checkpoint/checkpoint.img",
            "checkpoint/pages_meta.img",
        ]
    assert archives.read(str(path), [str(place)]) == CONFIG
    into = tmp_path / "into"
    assert archives.unpack(str(path), [str(place)], str(into)) == CONFIG
    assert {name: (into / name).read_bytes() for name in os.listdir(into)} == {
        "checkpoint.img": b"x" * 3000,
        "pages_meta.img": b"",
    }
    assert all(one.stat().st_mode & 0o077 == 0 for one in (into, *into.iterdir()))


def test_nothing_is_overwritten(saved: Path, place: Path) -> None:
    path = place / "a.tar"
    path.write_text("precious")
    for attempt in (
        lambda: archives.write(str(path), str(saved), {}),
        lambda: archives.check_location(str(path)),
    ):
        with pytest.raises(RopewalkError, match=r"a\.tar exists") as caught:
            attempt()
        assert caught.value.kind is Kind.EXISTS
    assert path.read_text() == "precious"


def test_a_link_in_the_way_is_not_followed(saved: Path, place: Path, tmp_path: Path) -> None:
    (place / "a.tar").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RopewalkError, match="exists"):
        archives.write(str(place / "a.tar"), str(saved), {})
    assert not (tmp_path / "elsewhere").exists()


def test_a_writer_that_fails_leaves_nothing(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RopewalkError, match="cannot write the checkpoint"):
        archives.write(str(place / "a.tar"), str(tmp_path / "absent"), {archives.CONFIG: ENCODED})
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    ("location", "kind"),
    [("a.tar", Kind.INVALID), ("", Kind.INVALID), ("/", Kind.INVALID), ("/no/such/place/a.tar", Kind.NOT_FOUND)],
)
def test_where_an_archive_may_not_be(location: str, kind: Kind) -> None:
    with pytest.raises(RopewalkError) as caught:
        archives.check_location(location)
    assert caught.value.kind is kind


def test_only_files_of_the_directories_that_are_named(place: Path, tmp_path: Path) -> None:
    path = forged(tmp_path / "a.tar", file("config.dump", ENCODED), file("checkpoint/a"))
    (place / "link.tar").symlink_to(path)
    (place / "up").symlink_to(tmp_path)
    into = tmp_path / "into"
    assert kind_of(path, into, allowed=place) is Kind.DENIED
    assert kind_of(f"{place}/../a.tar", into, allowed=place) is Kind.DENIED
    assert kind_of(f"{place}/link.tar", into, allowed=place) is Kind.INVALID
    assert kind_of(f"{place}/up/a.tar", into, allowed=place) is Kind.NOT_FOUND  # the link stays in `place`
    assert kind_of(f"{place}/absent.tar", into, allowed=place) is Kind.NOT_FOUND
    with pytest.raises(RopewalkError, match="restore_from is empty"):
        archives.read(path, [])
    assert not into.exists()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_read(mode: int, place: Path, tmp_path: Path) -> None:
    path = forged(place / "a.tar", file("config.dump", ENCODED), file("checkpoint/a"))
    os.chmod(path, mode)
    assert kind_of(path, tmp_path / "into", allowed=place) is Kind.DENIED


def test_a_fifo_or_directory_is_not_read(place: Path, tmp_path: Path) -> None:
    os.mkfifo(place / "fifo", 0o600)
    (place / "directory").mkdir(mode=0o700)
    for name in ("fifo", "directory"):
        assert kind_of(f"{place}/{name}", tmp_path / "into", allowed=place) is Kind.DENIED


def test_only_plain_files_of_the_runtime_are_taken(place: Path, tmp_path: Path) -> None:
    link = tarfile.TarInfo("checkpoint/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("checkpoint/device")
    device.type = tarfile.CHRTYPE
    members = (
        file("config.dump", ENCODED),
        (link, b""),
        (device, b""),
        file("checkpoint/../../escaped"),
        file("checkpoint/deep/er"),
        file("/checkpoint/absolute"),
        file("checkpoint/.hidden"),
        file("rootfs-diff.tar"),
        file("bind.mounts"),
        file("./checkpoint/good", b"good"),
    )
    into = tmp_path / "into"
    archives.unpack(forged(place / "a.tar", *members), [str(place)], str(into))
    assert os.listdir(into) == ["good"]
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ((), Kind.INVALID),
        ((file("checkpoint/a"),), Kind.INVALID),
        ((file("config.dump", ENCODED),), Kind.INVALID),
        ((file("config.dump", b"{"), file("checkpoint/a")), Kind.INVALID),
        ((file("config.dump", b'{"name":[]}'), file("checkpoint/a")), Kind.INVALID),
        ((file("config.dump", b" " * (1 << 20) + b"{}"), file("checkpoint/a")), Kind.INVALID),
        ((file("config.dump", ENCODED), file("checkpoint/a"), file("checkpoint/a")), Kind.INVALID),
        ((file("config.dump", ENCODED), *(file(f"checkpoint/{n}") for n in range(65))), Kind.INVALID),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(
    members: tuple[tuple[tarfile.TarInfo, bytes], ...], kind: Kind, place: Path, tmp_path: Path
) -> None:
    assert kind_of(forged(place / "a.tar", *members), tmp_path / "into", allowed=place) is kind


def test_a_cut_archive_is_corrupt(saved: Path, place: Path, tmp_path: Path) -> None:
    path = place / "a.tar"
    archives.write(str(path), str(saved), {archives.CONFIG: ENCODED})
    whole = path.read_bytes()
    for length in (100, 600, 3000):
        path.write_bytes(whole[:length])
        assert kind_of(str(path), tmp_path / f"into-{length}", allowed=place) in (Kind.CORRUPT, Kind.INVALID)
