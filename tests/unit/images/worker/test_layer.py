"""One pass over a layer: what is checked, what is written, what the image's accounts are."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.images import jobs
from ropewalk.images.descriptor import Descriptor
from ropewalk.images.worker import accounts, layer
from tests.fakes import oci
from tests.fakes.oci import File, directory, symlink

LIMITS = jobs.Limits(layer_bytes=1 << 30, layer_inodes=1000, ratio=1000)
SOURCE = jobs.Source("r.example", "a/b", [])


def mine(files: Iterable[File]) -> list[File]:
    return [file._replace(uid=os.geteuid(), gid=os.getegid()) for file in files]


def job(tmp_path: Path, made: oci.Layer, *, unpack: bool = True, digest: str = "", diff_id: str = "") -> jobs.Layer:
    blob, root = tmp_path / "blob", tmp_path / "root"
    blob.write_bytes(made.blob)
    root.mkdir(exist_ok=True)
    digest, diff_id = digest or made.digest, diff_id or made.diff_id
    plan = jobs.LayerPlan(Descriptor(made.media_type, digest, len(made.blob)), diff_id, diff_id)
    (tmp_path / "ingest").touch()  # as the daemon does
    return jobs.Layer(SOURCE, plan, LIMITS, str(blob), str(tmp_path / "ingest"), str(root) if unpack else "")


def run(job: jobs.Layer) -> tuple[jobs.Unpacked, list[int]]:
    told: list[int] = []
    return layer.fetch_layer(job, lambda progress: told.append(progress.fetched)), told


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_one_pass_stores_checks_and_unpacks(tmp_path: Path, compression: str) -> None:
    made = oci.layer(mine([directory("d"), File("d/f", b"x" * 5000)]), compression)
    unpacked, told = run(job(tmp_path, made))
    assert (tmp_path / "ingest").read_bytes() == made.blob
    assert (tmp_path / "root/d/f").read_bytes() == b"x" * 5000
    assert (unpacked.size, unpacked.disk_bytes, unpacked.inodes) == (len(made.blob), 5120, 3)
    assert told[-1] == len(made.blob)


def test_a_wrong_media_type_does_not_matter_the_bytes_do(tmp_path: Path) -> None:
    made = oci.layer(mine([File("f", b"x")]), "zstd", media_type=oci.LAYER + "+gzip")
    run(job(tmp_path, made))
    assert (tmp_path / "root/f").exists()


def test_without_a_directory_only_the_digests_are_checked(tmp_path: Path) -> None:
    made = oci.layer(mine([File("f", b"x")]))
    unpacked, _ = run(job(tmp_path, made, unpack=False))
    assert (unpacked.inodes, os.listdir(tmp_path / "root")) == (0, [])
    with pytest.raises(RopewalkError, match="uncompressed"):
        run(job(tmp_path, made, unpack=False, diff_id=oci.sha256(b"")))


@pytest.mark.parametrize("wrong", ["digest", "diff_id"])
def test_both_digests_must_be_right(tmp_path: Path, wrong: str) -> None:
    made, other = oci.layer(mine([File("f", b"x")])), oci.sha256(b"other")
    with pytest.raises(RopewalkError, match=other) as caught:
        run(job(tmp_path, made, digest=other) if wrong == "digest" else job(tmp_path, made, diff_id=other))
    assert caught.value.kind is Kind.CORRUPT


def test_sha512_is_a_digest_too(tmp_path: Path) -> None:
    made = oci.layer(mine([File("f", b"x")]))
    run(job(tmp_path, made, digest="sha512:" + hashlib.sha512(made.blob).hexdigest()))


def test_what_follows_the_archives_end_belongs_to_the_digest(tmp_path: Path) -> None:
    plain = oci.archive(mine([File("f", b"x")])) + b"trailing" * 10_000
    run(job(tmp_path, oci.layer(plain)))
    cheating = oci.layer(plain)._replace(diff_id=oci.sha256(plain[:-1]))
    with pytest.raises(RopewalkError, match="uncompressed"):
        run(job(tmp_path / "..", cheating, unpack=False))


def test_errors_name_the_layer(tmp_path: Path) -> None:
    made = oci.layer(b"no archive" * 100)
    with pytest.raises(RopewalkError, match=f"layer {made.digest} of a/b: a header's checksum"):
        run(job(tmp_path, made))


# -- accounts


def read(tmp_path: Path, files: Iterable[File]) -> tuple[jobs.Account, jobs.Account]:
    unpacked, _ = run(job(tmp_path, oci.layer(mine(files))))
    return unpacked.passwd, unpacked.group


def test_a_layers_accounts_are_returned(tmp_path: Path) -> None:
    files = [File("etc/passwd", b"root:x:0:0::/:\n"), File("usr/x"), File("etc/group", b"root:x:0:\n")]
    assert read(tmp_path, files) == (jobs.Account(b"root:x:0:0::/:\n"), jobs.Account(b"root:x:0:\n"))


def test_a_layer_that_says_nothing_leaves_them(tmp_path: Path) -> None:
    assert read(tmp_path, [File("usr/x")]) == (jobs.Account(), jobs.Account())


GONE = jobs.Account(gone=True)


@pytest.mark.parametrize(
    ("files", "passwd", "group"),
    [
        ([symlink("etc/passwd", "/etc/passwd"), File("etc/group", b"g")], GONE, jobs.Account(b"g")),
        ([symlink("etc/passwd", "group"), File("etc/group", b"g")], GONE, jobs.Account(b"g")),
        ([File("etc/passwd", type=tarfile.FIFOTYPE)], GONE, jobs.Account()),
        ([directory("etc/passwd")], GONE, jobs.Account()),
        ([symlink("etc", "/etc")], GONE, GONE),
        ([File("etc", b"a file")], GONE, GONE),
        ([File("etc/passwd", b"x" * (accounts.MAX_FILE + 1))], GONE, jobs.Account()),
        ([File("etc/passwd", b"x" * accounts.MAX_FILE)], jobs.Account(b"x" * accounts.MAX_FILE), jobs.Account()),
        ([File("real", b"r"), oci.hard_link("etc/passwd", "real")], jobs.Account(b"r"), jobs.Account()),
        ([File("etc/passwd", b"")], jobs.Account(b""), jobs.Account()),
    ],
)
def test_nothing_but_a_bounded_regular_file_is_read(
    tmp_path: Path, files: list[File], passwd: jobs.Account, group: jobs.Account
) -> None:
    assert read(tmp_path, files) == (passwd, group)
