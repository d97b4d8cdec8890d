"""Checkpoints of containers: what is done to write one, and what must hold before a container is made of one.

The files of a checkpoint lie below <root>/checkpoints while they are on the way: those that the runtime writes, until
the archive is whole (saving-…), and those of an archive, until the container that is restored from it has started
(<its id>). What a killed daemon left there is swept by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ropewalk import ids, steps
from ropewalk.errors import Invalid, Kind, RopewalkError, Unsupported, WrongState
from ropewalk.linux import paths
from ropewalk.linux.offload import Offload
from ropewalk.pods import archives, phases
from ropewalk.pods.records import Container, ContainerPhase, Pod
from ropewalk.runtimes import health, refusals
from ropewalk.runtimes.handler import Handler
from ropewalk.runtimes.registry import Handlers
from ropewalk.spec.container import ContainerSpec
from ropewalk.state.store import Table

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

    def __init__(
        self,
        config: Config,
        containers: Table[Container],
        pods: Table[Pod],
        handlers: Handlers,
        probed: health.Health,
        offload: Offload,
        *,
        directory: str,
    ) -> None:
        self._config = config
        self._containers = containers
        self._pods = pods
        self._handlers = handlers
        self._health = probed
        self._offload = offload
        self._directory = directory
        self._saving: set[str] = set()
        self._restoring: set[str] = set()  # pods

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _make_directory(self) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)  # most nodes never need it

    # Saving.

    async def check(self, container: Container) -> None:
        """Before anything is done: Unsupported if its handler cannot."""
        await self._health.known([container.handler], health.FIRST)  # for one of an earlier daemon
        pod = self._pods[container.pod_id]
        refusals.check_checkpoint(self._handlers.of(container.handler), self._handlers, pod.spec, container.spec)

    async def save(self, container: Container, handler: Handler, location: str, timeout: float) -> None:
        """A new archive at `location` of a running container, which runs on; whole, or nothing. `timeout` seconds, 0
        for SECONDS."""
        assert container.task is not None
        _require_alone(container.pod_id, self._others(container.pod_id, container.id))
        await self._offload.call(archives.check_location, location, timeout=READ_SECONDS)
        name = f"{SAVING}{os.urandom(8).hex()}"
        self._saving.add(name)
        try:
            async with asyncio.timeout(timeout or SECONDS):
                self._make_directory()
                os.mkdir(self._path(name), mode=0o700)
                steps.checkpoint("checkpoint:begun")
                await handler.checkpoint(container.id, container.task, self._path(name))
                steps.checkpoint("checkpoint:saved")
                version = self._health.probe(handler.name).version
                found = documents(container, handler, version, now=time.time_ns())
                await self._offload.call(archives.write, location, self._path(name), found, timeout=None)
                steps.checkpoint("checkpoint:written")
        except TimeoutError:
            text = f"container {ids.short(container.id)}: its checkpoint did not end within {timeout or SECONDS:g} s"
            raise RopewalkError(text, kind=Kind.TIMEOUT) from None
        finally:
            await asyncio.shield(asyncio.ensure_future(self._discard(name)))

    async def _discard(self, name: str) -> None:
        """To its end, also if nobody waits for it any more."""
        try:
            await self._remove(name)
        finally:
            self._saving.discard(name)

    def _others(self, pod_id: str, id: str) -> list[Container]:
        """What the pod has beside container `id` and has not ended."""
        found = (c for c in self._containers if c.pod_id == pod_id and c.id != id)
        return [container for container in found if container.phase is not ContainerPhase.EXITED]

    # Restoring.

    async def origin(self, pod: Pod, spec: ContainerSpec) -> str:
        """The id of the image that the container was made of whose checkpoint the request names, after all was found
        good for a restore; "" if it names none."""
        path = spec.image.image
        handler = self._handlers[pod.handler]
        if not is_archive(path):
            if handler.capabilities.checkpoint:
                _require_none_waits(pod.id, self._others(pod.id, ""))
            return ""
        refusals.check_checkpoint(handler, self._handlers, pod.spec, spec)
        _require_alone(pod.id, self._others(pod.id, ""))
        config = await self._offload.call(archives.read, path, self._config.restore_from, timeout=READ_SECONDS)
        check(path, config, handler, self._health.probe(handler.name).version, spec)
        return config.ropewalk.image_id

    async def restore_pod(self, container: Container) -> str:
        """Make what the pod's handler needs anew, for a container that goes on from a checkpoint; the directory of what
        its runtime wrote. "" and nothing is done for any other."""
        path = container.spec.image.image
        if not is_archive(path):
            return ""
        directory, allowed = self._path(container.id), self._config.restore_from
        self._make_directory()
        found = await self._offload.call(archives.unpack, path, allowed, f"{directory}{PART}", timeout=None)
        if (found.name, found.ropewalk.image_id) != (container.spec.metadata.name, container.image_id):
            raise WrongState(f"{path} is another checkpoint than before", hint="try again")
        os.rename(f"{directory}{PART}", directory)
        steps.checkpoint("checkpoint:unpacked")
        self._restoring.add(container.pod_id)
        try:
            task = await self._handlers[container.handler].restore_pod(container.pod_id, directory)
            if task is not None:
                self._pods.apply(container.pod_id, phases.sandboxed, task)
        finally:
            self._restoring.discard(container.pod_id)
        steps.checkpoint("checkpoint:restoring")
        return directory

    def is_restoring(self, pod_id: str) -> bool:
        """Whether what the pod's handler needs for it is being replaced."""
        return pod_id in self._restoring

    async def undo(self, container: Container) -> None:
        """Of `restore_pod`; idempotent. What was made of a checkpoint waits for a container that does not come: no
        other can live in that pod, unless one does, for which it was made anew."""
        if not is_archive(container.spec.image.image):
            return
        pod_id = container.pod_id
        begun = os.path.lexists(self._path(container.id)) and not container.started_at
        if begun and pod_id in self._pods and not self._others(pod_id, container.id):
            self._pods.apply(pod_id, phases.notready, derivable=True)
        for name in (container.id, f"{container.id}{PART}"):
            await self._remove(name)

    async def forget(self, id: str) -> None:
        """It has started: its runtime needs no files any more. What fails here, `undo` does."""
        with contextlib.suppress(RopewalkError, OSError):
            await self._remove(id)

    async def _remove(self, name: str) -> None:
        if os.path.lexists(self._path(name)):
            await self._offload.call(paths.remove_tree, self._path(name), timeout=REMOVE_SECONDS)

    async def sweep(self) -> list[str]:
        """Remove what is of no container, and of no call under way."""
        present = os.listdir(self._directory) if os.path.isdir(self._directory) else []
        owned = self._saving.union(container.id for container in self._containers)
        stray = sorted(name for name in present if name.removesuffix(PART) not in owned)
        for name in stray:
            await self._remove(name)
        return [self._path(name) for name in stray]


def _require_alone(pod_id: str, others: Sequence[Container]) -> None:
    """Handlers save and restore a pod's kernel, with all that lives in it."""
    if others:
        names = ", ".join(container.spec.metadata.name for container in others)
        raise WrongState(
            f"pod sandbox {pod_id!r} has other containers: {names}",
            hint="a checkpoint is made of, and restored to, the only container of a pod",
        )


def _require_none_waits(pod_id: str, others: Sequence[Container]) -> None:
    for one in others:
        if is_archive(one.spec.image.image) and one.phase is not ContainerPhase.RUNNING:
            raise WrongState(
                f"pod sandbox {pod_id!r} waits for its container {one.spec.metadata.name!r} to be restored",
                hint="start that one first",
            )


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
