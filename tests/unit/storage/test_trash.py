from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ropewalk.errors import Kind, RopewalkError
from ropewalk.storage import trash
from tests.fakes.inline import InlineOffload

T = TypeVar("T")


@pytest.fixture
def worker() -> InlineOffload:
    return InlineOffload()


@pytest.fixture
async def bin(tmp_path: Path, worker: InlineOffload) -> AsyncIterator[trash.Trash]:
    bin = trash.Trash(str(tmp_path / "trash"), worker)
    yield bin
    await bin.close()


def make_tree(path: Path, *, files: int = 3, size: int = 10) -> str:
    path.mkdir()
    for number in range(files):
        (path / str(number)).write_bytes(b"x" * size)
    return str(path)


async def test_what_is_thrown_away_is_out_of_sight_at_once(
    bin: trash.Trash, tmp_path: Path, worker: InlineOffload
) -> None:
    path = make_tree(tmp_path / "1")
    bin.throw(path)
    assert not os.path.exists(path)
    await bin.emptied()
    assert os.listdir(tmp_path / "trash") == []
    assert worker.calls == []  # a small tree is not worth a worker


@pytest.mark.parametrize(("files", "size"), [(trash.SMALL_ENTRIES + 1, 1), (1, trash.SMALL_BYTES + 1)])
async def test_a_large_tree_goes_to_a_worker(
    bin: trash.Trash, tmp_path: Path, worker: InlineOffload, files: int, size: int
) -> None:
    bin.throw(make_tree(tmp_path / "1", files=files, size=size))
    await bin.emptied()
    assert os.listdir(tmp_path / "trash") == []
    assert worker.calls == ["remove_tree"]


async def test_absent_is_fine_and_names_may_repeat(bin: trash.Trash, tmp_path: Path) -> None:
    bin.throw(str(tmp_path / "none"))
    for _ in range(3):
        bin.throw(make_tree(tmp_path / "1"))
    assert len(os.listdir(tmp_path / "trash")) == 3
    await bin.emptied()


async def test_links_in_the_trash_lead_nowhere(bin: trash.Trash, tmp_path: Path) -> None:
    canary = make_tree(tmp_path / "canary")
    path = make_tree(tmp_path / "1")
    os.symlink(canary, f"{path}/link")
    os.symlink(canary, tmp_path / "2")
    bin.throw(path)
    bin.throw(str(tmp_path / "2"))
    await bin.emptied()
    assert len(os.listdir(canary)) == 3


async def test_what_a_kill_left_is_removed_by_the_next_start(tmp_path: Path, worker: InlineOffload) -> None:
    first = trash.Trash(str(tmp_path / "trash"), worker)
    first.hide(make_tree(tmp_path / "1"))
    second = trash.Trash(str(tmp_path / "trash"), worker)
    second.start()
    await second.emptied()
    assert os.listdir(tmp_path / "trash") == []


async def test_a_failure_delays_only_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(InlineOffload):
        async def call(self, fn: Callable[..., T], *args: Any, timeout: float | None = 10.0) -> T:
            if not self.calls:
                self.calls.append("hang")
                raise RopewalkError("did not answer", kind=Kind.TIMEOUT)
            return await super().call(fn, *args, timeout=timeout)

    monkeypatch.setattr(trash, "RETRY", 0.0)
    bin = trash.Trash(str(tmp_path / "trash"), Hanging())
    for name in ("1", "2"):
        bin.throw(make_tree(tmp_path / name, files=100))
    await bin.emptied()
    assert os.listdir(tmp_path / "trash") == []
    await bin.close()


async def test_a_rename_that_fails_does_not_keep_remove_from_working(
    bin: trash.Trash, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "trash").rmdir()
    (tmp_path / "trash").write_text("not a directory")
    path = make_tree(tmp_path / "1")
    bin.hide(path)
    assert "cannot move to the trash" in caplog.text
    assert os.path.exists(path)


async def test_closing_stops(bin: trash.Trash, tmp_path: Path) -> None:
    bin.throw(make_tree(tmp_path / "1"))
    await bin.close()
    await bin.close()
    assert len(asyncio.all_tasks()) == 1
