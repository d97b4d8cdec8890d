"""Checkpoints of containers: what is done to write one, and what must hold before a container is made of one.

The files of a checkpoint lie below <root>/checkpoints while they are on the way: those that the runtime writes, until
the archive is whole (saving-…), and those of an archive, until the container that is restored from it has started
(<its id>). What a killed daemon left there is swept by the next.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ropewalk import ids, steps
from ropewalk.errors import Invalid, Kind, RopewalkError, Unsupported
from ropewalk.linux import paths
from ropewalk.linux.offload import Offload
from ropewalk.pods import archives
from ropewalk.pods.records import Container
from ropewalk.runtimes.handler import Handler
from ropewalk.spec.container import ContainerSpec

SECONDS = 120.0  # for a checkpoint whose caller sets no limit: kubelet's runtimeRequestTimeout
READ_SECONDS = 30.0  # for config.dump, which is at the archive's beginning if it is one of ours
REMOVE_SECONDS = 60.0
SAVING, PART = "saving-", ".part"
RUNNING = 1  # runtime.v1.ContainerState: CONTAINER_RUNNING


class Config(Struct, frozen=True):
    """[checkpoints]"""

    restore_from: Annotated[
        tuple[str, ...],
        Meta(
            description="Directories of the checkpoint archives that a container may be restored from (its image is "
            "then the archive's path). Only root's files that nobody else may write; empty: nothing is restored."
        ),
    ] = ("/var/lib/kubelet/checkpoints",)


class Checkpoints:
    """See the module's essay. `offload`: its workers copy whole archives."""

    def __init__(self, config: Config, offload: Offload, *, directory: str) -> None:
        self._config = config
        self._offload = offload
        self._directory = directory
        self._saving: set[str] = set()

    async def save(self, container: Container, handler: Handler, version: str, location: str, timeout: float) -> None:
        """A new archive at `location` of a running container, which runs on; whole, or nothing. `version`: of the
        runtime."""
        assert container.task is not None
        await self._offload.call(archives.check_location, location, timeout=READ_SECONDS)
        name = f"{SAVING}{os.urandom(8).hex()}"
        directory = os.path.join(self._directory, name)
        self._saving.add(name)
        try:
            async with asyncio.timeout(timeout or SECONDS):
                os.makedirs(directory, mode=0o700)  # and what is above
                steps.checkpoint("checkpoint:begun")
                await handler.checkpoint(container.id, container.task, directory)
                steps.checkpoint("checkpoint:saved")
                found = documents(container, handler, version, now=time.time_ns())
                await self._offload.call(archives.write, location, directory, found, timeout=None)
                steps.checkpoint("checkpoint:written")
        except TimeoutError:
            text = f"container {ids.short(container.id)}: its checkpoint did not end within {timeout or SECONDS:g} s"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None
        finally:
            await asyncio.shield(asyncio.ensure_future(self._remove(name)))
            self._saving.discard(name)

    async def read(self, path: str, handler: Handler, version: str, spec: ContainerSpec) -> archives.Config:
        """What the archive at `path` says of itself, after it was found good for a container `spec`."""
        config = await self._offload.call(archives.read, path, self._config.restore_from, timeout=READ_SECONDS)
        check(path, config, handler, version, spec)
        return config

    async def unpack(self, path: str, id: str) -> str:
        """The directory of the files that the runtime wrote, for container `id`."""
        directory = os.path.join(self._directory, id)
        allowed = self._config.restore_from
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        await self._offload.call(archives.unpack, path, allowed, f"{directory}{PART}", timeout=None)
        os.rename(f"{directory}{PART}", directory)
        steps.checkpoint("checkpoint:unpacked")
        return directory

    def has(self, id: str) -> bool:
        """Whether `unpack` came to its end, and `remove` did not."""
        return os.path.lexists(os.path.join(self._directory, id))

    async def remove(self, id: str) -> None:
        """Undo of `unpack`; idempotent."""
        for name in (id, f"{id}{PART}"):
            if os.path.lexists(os.path.join(self._directory, name)):
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        path = os.path.join(self._directory, name)
        await self._offload.call(paths.remove_tree, path, timeout=REMOVE_SECONDS)

    async def sweep(self, owned: set[str]) -> list[str]:
        """Remove what is of no container in `owned`, and of no call under way."""
        present = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        stray = sorted(name for name in present if name.removesuffix(PART) not in owned | self._saving)
        for name in stray:
            await self._remove(name)
        return [os.path.join(self._directory, name) for name in stray]


def is_archive(image: str) -> bool:
    """Whether a container's image is the path of a checkpoint: no reference begins so."""
    return image.startswith("/")


def check(path: str, config: archives.Config, handler: Handler, version: str, spec: ContainerSpec) -> None:
    """Raise what keeps a container from being restored. What a runtime saved only the same one understands."""
    origin = config.ropewalk
    if not origin.image_id:
        raise Unsupported(f"{path} is a checkpoint by {config.runtime!r} of another engine", hint="restore it there")
    if origin.runtime_version != version:
        raise Unsupported(
            f"{path} was written by {origin.runtime_version!r}, and runtime handler {handler.name!r} is {version!r}",
            hint="restore it with the same build",
        )
    if config.name != spec.metadata.name:
        raise Invalid(
            f"{path} is the checkpoint of a container called {config.name!r}, not {spec.metadata.name!r}",
            hint="give the container that name",
        )


def documents(container: Container, handler: Handler, version: str, *, now: int) -> dict[str, bytes]:
    """What an archive says about itself, by file name."""
    config = archives.Config(
        id=container.id,
        name=container.spec.metadata.name,
        rootfs_image=container.image_name,
        rootfs_image_ref=container.image_ref,
        rootfs_image_name=container.image_name,
        runtime=handler.name,
        created_time=_time(container.created_at),
        checkpointed_time=_time(now),
        ropewalk=archives.Origin(runtime_version=version, handler=handler.name, image_id=container.image_id),
    )
    found = {
        archives.CONFIG: config,
        archives.SPEC: handler.spec(container.id),
        archives.STATUS: _status(container),
    }
    return {name: msgspec.json.format(msgspec.json.encode(content), indent=2) for name, content in found.items()}


def _status(container: Container) -> dict[str, Any]:
    """As Go writes runtime.v1.ContainerStatus in JSON, which is what containerd reads."""
    metadata = container.spec.metadata
    return {
        "id": container.id,
        "metadata": {"name": metadata.name, "attempt": metadata.attempt},
        "state": RUNNING,
        "created_at": container.created_at,
        "started_at": container.started_at,
        "image": {"image": container.image_name},
        "image_ref": container.image_ref,
        "labels": container.spec.labels,
        "annotations": container.spec.annotations,
        "log_path": container.log_path,
    }


def _time(nanoseconds: int) -> str:
    """RFC 3339, in whole seconds."""
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def others(containers: Sequence[Container], id: str) -> list[str]:
    """Names of the containers that a pod has beside `id` and that have not ended."""
    return [c.spec.metadata.name for c in containers if c.id != id and c.phase.value != "exited"]
