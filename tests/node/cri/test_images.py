"""What critest's [Image Manager], [Image Consistency] and [Image Identifier Consistency] assert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ropewalk.client import cri
from ropewalk.errors import Kind, RopewalkError
from ropewalk.spec.image import ImageSpec
from tests.node.cri.shells import Shells
from tools import debian, images, oci, registry

TWO = ("registry.k8s.io/ropewalk/two", "k8s.gcr.io/ropewalk/two")  # one repository of the mirror


@pytest.fixture(scope="module")
def registry_(registry: registry.Registry, tmp_path_factory: pytest.TempPathFactory) -> registry.Registry:
    """The registry with some more images: three equal tags, three different images."""
    layout = oci.Layout(tmp_path_factory.mktemp("layout"), debian.run("dpkg", "--print-architecture").strip())
    names = [f"docker.io/conformance/tags:{number}" for number in (1, 2, 3)]
    layout.add(oci.Image([images.tree_layer(lambda tree: tree.file("tags", ""))], {"Cmd": ["sh"]}), *names, TWO[0])
    layout.close()
    for name in [*names, TWO[0]]:
        registry.push(layout.directory, name)
    return registry


@pytest.fixture
async def pull(client: cri.Client, registry_: registry.Registry) -> AsyncIterator[cri.Client]:
    """The client, on a node without images before and after."""
    yield client
    for image in await client.images():
        await client.remove_image(image.id)
    assert await client.images() == []


async def pulled(client: cri.Client, *names: str) -> set[str]:
    return {await client.pull(ImageSpec(image=name)) for name in names}


async def test_a_tag_is_told_as_it_was_pulled_and_latest_is_implied(pull: cri.Client) -> None:
    await pulled(pull, "docker.io/conformance/tags:1", "docker.io/ropewalk/zstd")
    assert [image.repo_tags for image in await pull.images("docker.io/conformance/tags:1")] == [
        ["docker.io/conformance/tags:1"]
    ]
    latest = await pull.image("docker.io/ropewalk/zstd")
    assert latest is not None
    assert latest.repo_tags == ["docker.io/ropewalk/zstd:latest"]


async def test_a_deadline_is_kept(pull: cri.Client) -> None:
    with pytest.raises(RopewalkError) as caught:
        await pull.pull(ImageSpec(image="docker.io/ropewalk/big:latest"), timeout=0.001)
    assert caught.value.kind is Kind.TIMEOUT


async def test_an_image_pulled_by_digest_has_no_tag_and_the_digest_asked_for(pull: cri.Client) -> None:
    await pulled(pull, images.BUSYBOX)
    by_tag = await pull.image(images.BUSYBOX)
    assert by_tag is not None
    (digest,) = by_tag.repo_digests
    await pull.remove_image(by_tag.id)
    await pulled(pull, digest)
    by_digest = await pull.image(digest)
    assert by_digest is not None
    assert (by_digest.repo_tags, by_digest.repo_digests) == ([], [digest])


async def test_every_reference_has_the_same_status(pull: cri.Client) -> None:
    (id,) = await pulled(pull, images.BUSYBOX)
    image = await pull.image(id)
    assert image is not None
    assert [await pull.image(name) for name in (*image.repo_tags, *image.repo_digests)] == [image, image]


@pytest.mark.parametrize(("name", "uid", "username"), [("user-number", 1000, ""), ("user-name", None, "tester")])
async def test_the_user_is_a_number_or_a_name(pull: cri.Client, name: str, uid: int | None, username: str) -> None:
    await pulled(pull, f"docker.io/ropewalk/{name}")
    image = await pull.image(f"docker.io/ropewalk/{name}")
    assert image is not None
    assert (image.uid, image.username) == (uid, username)


async def test_three_images_and_three_tags_of_one(pull: cri.Client) -> None:
    assert (
        len(await pulled(pull, *(f"docker.io/ropewalk/{name}" for name in ("user-number", "entrypoint", "layers"))))
        == 3
    )
    tags = [f"docker.io/conformance/tags:{number}" for number in (1, 2, 3)]
    (id,) = await pulled(pull, *tags)
    image = await pull.image(id)
    assert image is not None
    assert sorted(image.repo_tags) == tags
    await pull.remove_image(tags[1])
    assert [await pull.image(name) for name in tags] == [None] * 3


async def test_one_image_of_two_registries_is_removed_from_both(pull: cri.Client) -> None:
    (id,) = await pulled(pull, *TWO)
    image = await pull.image(id)
    assert image is not None
    assert sorted(image.repo_tags) == sorted(f"{name}:latest" for name in TWO)
    await pull.remove_image(TWO[0])
    assert [await pull.image(name) for name in TWO] == [None, None]


async def test_pulled_and_removed_is_seen_at_once_whoever_else_removes(pull: cri.Client) -> None:
    for _ in range(3):
        (id,) = await pulled(pull, images.BUSYBOX)
        assert [image.id for image in await pull.images()] == [id]
        await asyncio.gather(*(pull.remove_image(id) for _ in range(5)))
        assert await pull.image(images.BUSYBOX) is None
        assert await pull.images() == []
    await pull.remove_image(f"sha256:{'0' * 64}")


async def test_one_identifier_everywhere_and_an_image_runs_by_it(pull: cri.Client, shells: Shells) -> None:
    pod = await shells.pod()
    (id,) = await pulled(pull, images.BUSYBOX)
    container = await shells.start(pod, reference=id, tty=True, stdin=True)
    image = await pull.image(images.BUSYBOX)
    assert image is not None
    listed, status = (await pull.containers(id=container))[0], await pull.container_status(container)
    assert {id, image.id, listed.image_id, status.image_id} == {id}
    assert status.image.image == images.BUSYBOX
    await pod.remove()
