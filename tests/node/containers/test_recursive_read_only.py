"""recursive_read_only: nothing below a mount can be written, on every handler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.linux import mount
from ropewalk.spec import container
from ropewalk.spec.image import ImageSpec
from tests.node.conftest import PodRunner
from tools import images
from tools import node as nodes

HANDLERS = ("crun", "runc")


@pytest.fixture
async def client(client: cri.Client) -> cri.Client:
    await client.pull(ImageSpec(image=images.BUSYBOX))
    return client


@pytest.fixture
def tree(node: nodes.Node) -> Iterator[Path]:
    """A directory with a file system mounted below it."""
    path = node.base / f"tree-{os.urandom(4).hex()}"
    (path / "below").mkdir(parents=True)
    mount.tmpfs(str(path / "below"))
    yield path
    mount.umount_all(str(path / "below"))


@pytest.mark.parametrize("handler", HANDLERS)
async def test_nothing_below_can_be_written(client: cri.Client, run_pod: PodRunner, tree: Path, handler: str) -> None:
    sandbox = await run_pod(runtime_handler=handler)
    mounts = [
        container.Mount("/plain", str(tree), readonly=True),
        container.Mount("/whole", str(tree), readonly=True, recursive_read_only=True),
    ]
    id = await sandbox.start("main", "sleep", "600", mounts=mounts)
    for path, code in (("/plain/x", 1), ("/plain/below/x", 0), ("/whole/x", 1), ("/whole/below/y", 1)):
        assert (await client.exec_sync(id, ["touch", path])).exit_code == code, path
    assert os.listdir(tree / "below") == ["x"]
    told = (await client.status()).runtime_handlers
    assert {found.name for found in told if found.features.recursive_read_only_mounts} >= {"", *HANDLERS}


async def test_it_goes_with_readonly_and_private(run_pod: PodRunner, tree: Path) -> None:
    sandbox = await run_pod()
    slave = container.MountPropagation.HOST_TO_CONTAINER
    for wrong in (
        container.Mount("/whole", str(tree), recursive_read_only=True),
        container.Mount("/whole", str(tree), readonly=True, recursive_read_only=True, propagation=slave),
    ):
        with pytest.raises(RopewalkError, match="recursive_read_only") as caught:
            await sandbox.create("main", "true", mounts=[wrong])
        assert caught.value.kind is Kind.INVALID
