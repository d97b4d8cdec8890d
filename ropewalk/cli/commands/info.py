"""Show what an endpoint is, whether it is ready, and what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli import endpoint, output, units

if TYPE_CHECKING:
    from ropewalk.client import cri, values


@click.command(help=__doc__)
@output.json_option
@endpoint.address_option
def command(as_json: bool, address: str) -> None:
    found = endpoint.call(address, collected)
    if as_json:
        output.emit(found)
        return
    lines = {
        "endpoint": found["address"],
        "runtime": f"{found['runtime']} {found['version']}",
        "CRI": found["api_version"],
        **{c["type"]: "yes" if c["status"] else f"no: {c['reason']} {c['message']}" for c in found["conditions"]},
        "handlers": ", ".join(name for name in found["handlers"] if name),
        "pods": f"{found['pods_ready']} ready of {found['pods']}",
        "containers": f"{found['containers_running']} running of {found['containers']}",
        "images": str(found["images"]),
        "disk": ", ".join(
            f"{units.decimal(fs['used_bytes'])} in {fs['mountpoint']}" for fs in found["image_filesystems"]
        ),
    }
    click.echo(output.aligned([(f"{name}:", output.printable(text)) for name, text in lines.items()]))


async def collected(client: cri.Client) -> dict[str, Any]:
    import asyncio

    from ropewalk.client import values

    version, status = await asyncio.gather(client.version(), client.status())
    pods, containers, images = await asyncio.gather(client.pods(), client.containers(), client.images())
    return {
        "address": client.address,
        "runtime": version.runtime_name,
        "version": version.runtime_version,
        "api_version": version.runtime_api_version,
        "conditions": output.document(status.status.conditions),
        "handlers": [handler.name for handler in status.runtime_handlers],
        "pods": len(pods),
        "pods_ready": sum(pod.state is values.PodSandboxState.READY for pod in pods),
        "containers": len(containers),
        "containers_running": sum(container.state is values.ContainerState.RUNNING for container in containers),
        "images": len(images),
        "image_filesystems": [filesystem(f) for f in (await client.image_fs_info()).image_filesystems],
    }


def filesystem(usage: values.FilesystemUsage) -> dict[str, Any]:
    return {
        "mountpoint": usage.fs_id.mountpoint,
        "used_bytes": usage.used_bytes,
        "inodes_used": usage.inodes_used,
    }
