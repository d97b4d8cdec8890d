"""Stopping and removing as people mean it: with their time-out, and with the log files that `run` made."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from ropewalk.cli import endpoint, names
from ropewalk.client import values
from ropewalk.errors import Kind, RopewalkError, WrongState

if TYPE_CHECKING:
    from ropewalk.client import cri

Container = values.Container
Target = values.Container | values.PodSandbox
Act = Callable[["cri.Client", Target], Awaitable[None]]

RUNNING = values.ContainerState.RUNNING


async def on_targets(
    client: cri.Client, given: Sequence[str], act: Act, *, every: bool, quiet: bool
) -> tuple[list[dict[str, str]], int]:
    """`act` on what the names mean, on every pod with `every`. Each that is done is printed unless `quiet`; all of
    them, and the exit code, are returned. Two names of one thing are one."""
    containers, pods = await asyncio.gather(client.containers(), client.pods())
    begun: set[str] = set()

    async def one(name: str) -> dict[str, str] | None:
        target = names.find_target(name, containers, pods)
        if target.id in begun:
            return None
        begun.add(target.id)
        await act(client, target)
        if not quiet:
            click.echo(name)
        return described(target)

    results, code = await endpoint.each([*given, *([pod.id for pod in pods] if every else [])], one)
    return [result for result in results if result], code


def described(target: Target) -> dict[str, str]:
    kind = "container" if isinstance(target, Container) else "pod"
    return {"kind": kind, "id": target.id, "name": target.metadata.name}


async def stop_pod(client: cri.Client, id: str, timeout: int) -> None:
    """Its containers with `timeout` seconds each from the stop signal to SIGKILL (the CRI has none for a pod), then
    the pod sandbox: its addresses and ports are free afterwards."""
    containers = await client.containers(pod=id, state=RUNNING)
    await asyncio.gather(*(stop_container(client, container.id, timeout) for container in containers))
    await client.stop_pod(id)


async def stop_container(client: cri.Client, id: str, timeout: int) -> None:
    """One that is removed meanwhile is stopped too."""
    try:
        await client.stop(id, timeout)
    except RopewalkError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise


async def remove_pod(client: cri.Client, pod: values.PodSandbox, *, force: bool) -> None:
    """The pod sandbox, its containers, and if `run` made it their logs. WrongState if a container runs, unless
    `force`, which kills it."""
    containers = await client.containers(pod=pod.id)
    running = [container.metadata.name for container in containers if container.state is RUNNING]
    if running and not force:
        raise WrongState(f"pod {pod.metadata.name} runs {', '.join(running)}", hint="stop it first, or use --force")
    logs: list[str] = []
    if names.RUN in pod.labels:
        statuses = await endpoint.answers((container.id for container in containers), client.container_status)
        logs = [status.log_path for status in statuses.values()]
    await stop_pod(client, pod.id, 0)
    await client.remove_pod(pod.id)
    remove_logs(logs, f"{pod.metadata.namespace}_{pod.metadata.name}_{pod.metadata.uid}")


async def remove_container(client: cri.Client, container: values.Container, *, force: bool) -> None:
    if container.state is RUNNING:
        if not force:
            raise WrongState(f"container {container.metadata.name} runs", hint="stop it first, or use --force")
        await client.stop(container.id, 0)
    await client.remove(container.id)


def remove_logs(paths: Iterable[str], directory: str) -> None:
    """The log files and the directories that they leave empty: <directory>/<container>/<attempt>.log. Other paths
    are not touched, whoever named them; nor is what somebody else put there."""
    for path in paths:
        inner, outer = os.path.dirname(path), os.path.dirname(os.path.dirname(path))
        if path.endswith(".log") and os.path.basename(outer) == directory:
            with contextlib.suppress(OSError):
                os.unlink(path)
                os.rmdir(inner)
                os.rmdir(outer)
