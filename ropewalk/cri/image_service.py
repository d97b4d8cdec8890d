"""runtime.v1.ImageService: translate, delegate, translate back."""

# ruff: noqa: N802 (the methods have the service's names)

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from ropewalk.cri import frames, info, translate
from ropewalk.images.pull import Puller
from ropewalk.images.store import Image, Images
from ropewalk.storage.snapshotter import Usage
from ropewalk.storage.usage import Totals
from ropewalk.wire.pb import cri_pb2 as pb


class ImageService:
    """The methods that kubelet, crictl and critest call about images. `mountpoint`: where images and writable layers
    are kept; `usage`: how much they take."""

    def __init__(self, images: Images, puller: Puller, usage: Callable[[], Totals], *, mountpoint: str) -> None:
        self._images = images
        self._puller = puller
        self._usage = usage
        self._mountpoint = mountpoint
        self._frames: frames.Frames[Image] = frames.Frames(translate.image, images.table)

    async def ListImages(self, request: pb.ListImagesRequest) -> bytes:
        return self._frames.join(self._images.list(request.filter.image.image))

    async def StreamImages(self, request: pb.StreamImagesRequest) -> AsyncIterator[bytes]:
        for chunk in self._frames.chunks(self._images.list(request.filter.image.image)):
            yield chunk

    async def ImageStatus(self, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
        image = self._images.find(translate.image_name(request.image))
        if image is None:
            return pb.ImageStatusResponse()
        return pb.ImageStatusResponse(image=translate.image(image), info=info.image(image) if request.verbose else None)

    async def PullImage(self, request: pb.PullImageRequest) -> pb.PullImageResponse:
        name = translate.image_name(request.image)
        return pb.PullImageResponse(image_ref=await self._puller.pull(name, translate.auth(request)))

    async def RemoveImage(self, request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
        self._images.remove(translate.image_name(request.image))
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
        totals = self._usage()
        return pb.ImageFsInfoResponse(
            image_filesystems=[self._filesystem(totals.images)],
            container_filesystems=[self._filesystem(totals.containers)],
        )

    def _filesystem(self, usage: Usage) -> pb.FilesystemUsage:
        return pb.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=pb.FilesystemIdentifier(mountpoint=self._mountpoint),
            used_bytes=pb.UInt64Value(value=usage.bytes),
            inodes_used=pb.UInt64Value(value=usage.inodes),
        )
