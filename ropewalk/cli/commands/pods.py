"""List pods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.client import cri, values

HEADS = ["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME", "IP"]


@click.command(help=__doc__)
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only pods with this label.")
@click.option("--state", type=click.Choice(["ready", "notready"]), help="Only pods in this state.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@output.json_option
@endpoint.address_option
def command(
    quiet: bool, labels: tuple[str, ...], state: str | None, no_trunc: bool, as_json: bool, address: str
) -> None:
    from ropewalk.cli import flags
    from ropewalk.client import values

    wanted = values.PodSandboxState[state.upper()] if state else None

    async def work(client: cri.Client) -> list[tuple[values.PodSandbox, list[str]]]:
        found = await client.pods(state=wanted, labels=flags.parse_labels(labels))
        found.sort(key=lambda pod: -pod.created_at)
        asked = [] if quiet and not as_json else [pod.id for pod in found]  # the list does not carry addresses
        statuses = await endpoint.answers(asked, client.pod_status)
        return [(pod, statuses[pod.id].ips if pod.id in statuses else []) for pod in found]

    pods = endpoint.call(address, work)
    if as_json:
        output.emit([document(pod, ips) for pod, ips in pods])
    elif quiet:
        for pod, _ in pods:
            click.echo(units.short(pod.id, whole=no_trunc))
    else:
        output.table(HEADS, [row(pod, ips, whole=no_trunc) for pod, ips in pods])


def document(pod: values.PodSandbox, ips: list[str]) -> dict[str, Any]:
    return {
        "id": pod.id,
        "name": pod.metadata.name,
        "namespace": pod.metadata.namespace,
        "uid": pod.metadata.uid,
        "attempt": pod.metadata.attempt,
        "state": pod.state.name.lower(),
        "created_at": units.moment(pod.created_at),
        "runtime": pod.runtime_handler,
        "ips": ips,
        "labels": pod.labels,
        "annotations": pod.annotations,
    }


def row(pod: values.PodSandbox, ips: list[str], *, whole: bool) -> list[str]:
    return [
        units.short(pod.id, whole=whole),
        units.ago(pod.created_at),
        "Ready" if pod.state.name == "READY" else "NotReady",
        pod.metadata.name,
        pod.metadata.namespace,
        str(pod.metadata.attempt),
        pod.runtime_handler or "(default)",
        ips[0] if ips else "-",
    ]
