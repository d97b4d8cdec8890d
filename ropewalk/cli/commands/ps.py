"""List containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.client import cri, values

HEADS = ["CONTAINER ID", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD"]


@click.command(help=__doc__)
@click.option("-a", "--all", "every", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-p", "--pod", default="", metavar="POD", help="Only containers of this pod.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only containers with this label.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@output.json_option
@endpoint.address_option
def command(
    every: bool, quiet: bool, pod: str, labels: tuple[str, ...], no_trunc: bool, as_json: bool, address: str
) -> None:
    found = endpoint.call(address, lambda client: listed(client, every=every, pod=pod, labels=labels))
    if as_json:
        output.emit([document(*item) for item in found])
    elif quiet:
        for container, _, _ in found:
            click.echo(units.short(container.id, whole=no_trunc))
    else:
        output.table(HEADS, [row(*item, whole=no_trunc) for item in found])


async def listed(
    client: cri.Client, *, every: bool, pod: str, labels: tuple[str, ...]
) -> list[tuple[values.Container, values.PodSandbox | None, values.ContainerStatus | None]]:
    """The newest first, each with its pod and, if it has exited, its status: the list does not carry exit codes."""
    import asyncio

    from ropewalk.cli import flags, names
    from ropewalk.client import values

    state = None if every else values.ContainerState.RUNNING
    selected = client.containers(state=state, labels=flags.parse_labels(labels))
    found, pods = await asyncio.gather(selected, client.pods())
    if pod:
        id = names.find_pod(pod, pods).id
        found = [container for container in found if container.pod_sandbox_id == id]
    exited = [container.id for container in found if container.state is values.ContainerState.EXITED]
    statuses = await endpoint.answers(exited, client.container_status)
    by_id = {pod.id: pod for pod in pods}
    found.sort(key=lambda container: -container.created_at)
    return [(container, by_id.get(container.pod_sandbox_id), statuses.get(container.id)) for container in found]


def document(
    container: values.Container, pod: values.PodSandbox | None, status: values.ContainerStatus | None
) -> dict[str, Any]:
    """`exit_code` is null unless it has exited."""
    return {
        "id": container.id,
        "name": container.metadata.name,
        "attempt": container.metadata.attempt,
        "pod_id": container.pod_sandbox_id,
        "pod": pod.metadata.name if pod else "",
        "namespace": pod.metadata.namespace if pod else "",
        "image": container.image.user_specified_image or container.image.image,
        "image_id": container.image_id or container.image_ref,
        "state": container.state.name.lower(),
        "exit_code": status.exit_code if status else None,
        "reason": status.reason if status else "",
        "created_at": units.moment(container.created_at),
        "labels": container.labels,
        "annotations": container.annotations,
    }


def row(
    container: values.Container,
    pod: values.PodSandbox | None,
    status: values.ContainerStatus | None,
    *,
    whole: bool,
) -> list[str]:
    state = container.state.name.capitalize()
    image = container.image.user_specified_image or container.image.image
    return [
        units.short(container.id, whole=whole),
        units.short(image) if image.startswith("sha256:") and not whole else image,
        units.ago(container.created_at),
        f"{state} ({status.exit_code})" if status else state,
        container.metadata.name,
        str(container.metadata.attempt),
        units.short(container.pod_sandbox_id, whole=whole),
        pod.metadata.name if pod else "-",
    ]
