from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ropewalk.linux import inotify


async def test_events_come_in_order_and_end_with_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "watched"
    directory.mkdir()
    watch = inotify.Watch(str(directory))
    (directory / "a").write_text("x")
    (directory / "a").rename(directory / "b")
    (directory / "b").unlink()
    directory.rmdir()
    assert [event async for event in watch] == [
        ("a", inotify.IN_CREATE),
        ("a", inotify.IN_CLOSE_WRITE),
        ("a", inotify.IN_MOVED_FROM),
        ("b", inotify.IN_MOVED_TO),
        ("b", inotify.IN_DELETE),
        ("", inotify.IN_IGNORED),
    ]


async def test_a_waiting_iteration_sees_what_comes_later_and_ends_when_closed(tmp_path: Path) -> None:
    seen = []
    with inotify.Watch(str(tmp_path), inotify.IN_CREATE) as watch:

        async def read() -> None:
            async for name, _ in watch:
                seen.append(name)

        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        (tmp_path / "later").touch()
        while not seen:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(20):
        await reading
    assert seen == ["later"]
    watch.close()


async def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        inotify.Watch(str(tmp_path / "missing"))
    assert caught.value.filename == str(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        inotify.Watch(str(tmp_path / "file"))


def test_padding_is_stripped_and_names_need_not_be_unicode() -> None:
    def event(name: bytes, mask: int) -> bytes:
        return inotify._HEADER.pack(1, mask, 0, len(name)) + name

    buffer = event(b"a\0\0\0", 1) + event(b"", 2) + event(b"\xff\0", 4)
    assert inotify.parse_events(buffer) == [("a", 1), ("", 2), ("\udcff", 4)]
