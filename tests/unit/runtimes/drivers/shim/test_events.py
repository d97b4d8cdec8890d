"""What shims tell, in their order, and after it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.errors import Invalid
from ropewalk.runtimes.drivers.shim import events
from ropewalk.wire import ttrpc
from ropewalk.wire.pb import shim_pb2 as pb


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[events.Events]:
    listening = events.Events(str(tmp_path / "e"))
    await listening.start()
    yield listening
    await listening.close()


def forward(topic: str, event: pb.TaskExit | pb.TaskOOM) -> bytes:
    envelope = pb.Envelope(namespace="ns", topic=topic)
    envelope.event.value = event.SerializeToString()
    return pb.ForwardRequest(envelope=envelope).SerializeToString()


async def test_oom_and_end_are_kept_for_whom_they_are_asked(listening: events.Events) -> None:
    listening.follow("box")
    client = await ttrpc.connect(listening.path, timeout=5)
    for id in ("box", "other"):
        for topic, event in (
            ("/tasks/oom", pb.TaskOOM(container_id=id)),
            ("/tasks/exit", pb.TaskExit(container_id=id)),
        ):
            await client.call(events.SERVICE, "Forward", forward(topic, event), timeout=5)
    assert listening.is_oom("box")
    assert await listening.ended("box", 0)
    assert not listening.is_oom("other")
    assert not await listening.ended("other", 0)
    listening.forget("box")
    assert not listening.is_oom("box")
    await client.close()


async def test_the_end_of_an_exec_is_not_the_containers(listening: events.Events) -> None:
    listening.follow("box")
    client = await ttrpc.connect(listening.path, timeout=5)
    of_exec = forward("/tasks/exit", pb.TaskExit(container_id="box", id="exec-1"))
    await client.call(events.SERVICE, "Forward", of_exec, timeout=5)
    assert not await listening.ended("box", 0.01)
    waiting = asyncio.ensure_future(listening.ended("box", 5))
    own = forward("/tasks/exit", pb.TaskExit(container_id="box", id="box"))
    await client.call(events.SERVICE, "Forward", own, timeout=5)
    assert await waiting
    await client.close()


async def test_what_is_no_event_is_refused(listening: events.Events) -> None:
    client = await ttrpc.connect(listening.path, timeout=5)
    with pytest.raises(ttrpc.Refused, match="not served"):
        await client.call(events.SERVICE, "Other", b"", timeout=5)
    with pytest.raises(ttrpc.Refused, match="cannot be read"):
        await client.call(events.SERVICE, "Forward", b"\xff", timeout=5)
    await client.close()


async def test_a_dead_daemons_socket_is_taken_over(listening: events.Events) -> None:
    assert stat.S_IMODE(os.stat(listening.path).st_mode) == 0o600
    await listening.start()
    later = events.Events(listening.path)
    await later.start()
    later.follow("box")
    client = await ttrpc.connect(listening.path, timeout=5)
    await client.call(events.SERVICE, "Forward", forward("/tasks/oom", pb.TaskOOM(container_id="box")), timeout=5)
    assert later.is_oom("box")
    await client.close()
    await later.close()


async def test_a_path_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot listen"):
        await events.Events(str(tmp_path / ("x" * 120))).start()


async def test_what_failed_to_start_is_not_started(tmp_path: Path) -> None:
    later = events.Events(str(tmp_path / "absent/e"))
    for _ in range(2):
        with pytest.raises(Invalid, match="cannot listen"):
            await later.start()
    (tmp_path / "absent").mkdir()
    await later.start()
    assert os.path.exists(later.path)
    await later.close()
