"""runtime.v1.ImageService: contract 1.4 and its codes."""

from __future__ import annotations

import json

import grpc
import pytest
from msgspec import structs

from ropewalk.cri import info
from ropewalk.images.store import Image
from ropewalk.spec.image import AuthConfig, ImageConfig
from tests.fakes import domain
from tests.unit.cri.conftest import OK, Node

TAG = "docker.io/library/busybox:1"
DIGEST = "docker.io/library/busybox@sha256:" + "2" * 64


@pytest.fixture
def stored(node: Node) -> Image:
    return node.images.record(domain.image(user="1002:1003"))


@pytest.mark.parametrize("name", [domain.IMAGE_ID, "1" * 12, "busybox:1", TAG, DIGEST])
async def test_an_image_is_the_same_by_every_name(node: Node, stored: Image, name: str) -> None:
    image = (await node.ok("ImageStatus", image={"image": name})).image
    assert (image.id, list(image.repo_tags), list(image.repo_digests)) == (domain.IMAGE_ID, [TAG], [DIGEST])
    assert (image.size, image.uid.value, image.username, image.pinned) == (1234, 1002, "", False)
    assert list((await node.ok("ListImages", filter={"image": {"image": name}})).images) == [image]


@pytest.mark.parametrize(("user", "uid", "name"), [("", None, ""), ("www-data:x", None, "www-data"), ("0", 0, "")])
async def test_the_images_user(node: Node, user: str, uid: int | None, name: str) -> None:
    node.images.record(domain.image(user=user))
    image = (await node.ok("ImageStatus", image={"image": "busybox:1"})).image
    assert (image.uid.value if image.HasField("uid") else None, image.username) == (uid, name)


async def test_an_absent_image_is_no_error(node: Node) -> None:
    for name in ("nothing:1", "not a reference!"):
        reply = await node.ok("ImageStatus", image={"image": name})
        assert not reply.HasField("image")
        assert not (await node.ok("ListImages", filter={"image": {"image": name}})).images
        await node.ok("RemoveImage", image={"image": name})


@pytest.mark.parametrize("method", ["ImageStatus", "PullImage", "RemoveImage"])
async def test_no_image_named_is_invalid(node: Node, method: str) -> None:
    assert (await node.call(method)).code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await node.call(method, image={"image": ""})).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_verbose_tells_the_config(node: Node, stored: Image) -> None:
    info = (await node.ok("ImageStatus", image={"image": TAG}, verbose=True)).info
    assert json.loads(info["info"])["imageSpec"]["config"]["User"] == "1002:1003"


def test_what_is_a_set_in_an_image_is_told_as_one() -> None:
    config = ImageConfig(user="u", volumes=["/data"], exposed_ports=["443/tcp", "80/tcp"])
    told = json.loads(info.image(structs.replace(domain.image(), config=config))["info"])["imageSpec"]["config"]
    assert told == {"User": "u", "Volumes": {"/data": {}}, "ExposedPorts": {"443/tcp": {}, "80/tcp": {}}}


async def test_a_pull_returns_the_id_and_passes_credentials(node: Node) -> None:
    auth = {"username": "u", "password": "p"}
    reply = await node.ok("PullImage", image={"image": "docker.io/library/x:1"}, auth=auth)
    assert reply.image_ref == domain.IMAGE_ID
    assert node.puller.auth == AuthConfig(username="u", password="p")
    await node.ok("PullImage", image={"image": "docker.io/library/x:1"})
    assert node.puller.auth is None


async def test_a_refused_pull_is_permission_denied(node: Node) -> None:
    call = await node.call("PullImage", image={"image": "r.io/denied:1"})
    assert (call.code, "r.io/denied:1" in call.text) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_removing_one_name_removes_the_image(node: Node, stored: Image) -> None:
    assert len((await node.ok("ListImages")).images) == 1
    assert (await node.call("RemoveImage", image={"image": TAG})).code is OK
    assert (await node.call("RemoveImage", image={"image": TAG})).code is OK
    assert not (await node.ok("ListImages")).images
    assert not await node.stream("StreamImages")


async def test_a_stream_says_what_the_list_says(node: Node, stored: Image) -> None:
    (message,) = await node.stream("StreamImages")
    assert message.images == (await node.ok("ListImages")).images


async def test_file_systems_on_an_empty_store(node: Node) -> None:
    reply = await node.ok("ImageFsInfo")
    (images,), (containers,) = reply.image_filesystems, reply.container_filesystems
    assert images.fs_id.mountpoint == containers.fs_id.mountpoint == "/data"
    assert (images.used_bytes.value, images.inodes_used.value) == (100, 10)
    assert containers.used_bytes.value == 20
    assert images.timestamp > 0
