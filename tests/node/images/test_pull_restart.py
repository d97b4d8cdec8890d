"""Pulls that a restart of the daemon meets: under way, left behind, or of an image that is not whole any more."""

from __future__ import annotations

import asyncio
import os
import shutil

from tests.fakes import oci
from tests.fakes import registry as fakes
from tests.fakes.oci import File
from tests.node.images.conftest import Gate, Reopen, Store, image_of

BASE = oci.layer([File("base", b"base")])


async def test_an_image_that_lost_a_layer_is_forgotten(reopen: Reopen, fake: fakes.Registry) -> None:
    """The kubelet pulls no image that is there, and no container can be made of this one."""
    images = await reopen()
    made = image_of("above", 1000, [BASE])
    fake.add("1", made)
    fake.add("2", image_of("f", 1000))
    for tag in ("1", "2"):
        await images.puller.pull(f"{fake.host}/test/image:{tag}")
    shutil.rmtree(images.snapshotter.directory(BASE.diff_id))
    os.rmdir(os.path.dirname(images.snapshotter.directory(BASE.diff_id)))
    again = await reopen()
    assert [image.tags for image in again.images.list()] == [[f"{fake.host}/test/image:2"]]
    assert await again.puller.pull(f"{fake.host}/test/image:1") == made.id


async def test_a_killed_daemons_leavings_are_swept(reopen: Reopen, fake: fakes.Registry) -> None:
    images = await reopen()
    made = image_of("f", below=[BASE])
    fake.add("1", made)
    images.content.ingest(made.layers[1].digest)
    await images.snapshotter.prepare("layer-left", BASE.diff_id)
    images.leases.hold("pull left", digests=[made.layers[1].digest])
    again = await reopen()
    assert os.listdir(again.root / "content/ingest") == []
    assert again.snapshotter.list() == []
    assert await again.puller.pull(f"{fake.host}/test/image:1") == made.id
    third = await reopen()
    found = third.images.find(f"{fake.host}/test/image:1")
    assert found is not None
    fake.requests.clear()
    await third.puller.pull(f"{fake.host}/test/image:1")
    assert [request.method for request in fake.requests] == ["HEAD"]


async def test_a_sweep_beside_a_pull_leaves_it_alone(images: Store, fake: fakes.Registry) -> None:
    """The daemon answers before its recovery, which ends with the sweep, is done."""
    made = image_of("f")
    fake.add("1", made)
    gate = Gate(fake, made.layers[0].digest)
    pulling = asyncio.ensure_future(images.puller.pull(f"{fake.host}/test/image:1"))
    await gate.reached.wait()
    assert await images.puller.sweep() == []
    gate.open()
    fake.stopped.set()
    assert await pulling == made.id
    assert images.content.exists(made.layers[0].digest)
    await images.undone()
