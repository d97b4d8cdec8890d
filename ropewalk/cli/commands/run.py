"""Run a command in a new container."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ropewalk.cli import endpoint, inside, output
from ropewalk.errors import Unsupported

if TYPE_CHECKING:
    from ropewalk.cli import plan, runner
    from ropewalk.client import cri

F = TypeVar("F", bound=Callable[..., Any])

HELP = """Run a command in a new container, in a pod of its own.

In the foreground its output is shown until it ends, and its exit code is returned; Ctrl-C stops it, and so does the end
of who reads the output. The pod is then stopped and kept (`ropewalk logs`, `ropewalk rm`) unless --rm is given. Its log
grows without a bound. On a Kubernetes node, kubelet removes pods that the API server does not know.
"""
OPTIONS = (
    click.option("--name", default="", help="Of pod and container; the image's and four hexadecimal digits."),
    click.option("-p", "--publish", multiple=True, metavar="[IP:]HOST:PORT[/PROTO]", help="A port of the node to it."),
    click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="A variable; without VALUE, the one here."),
    click.option("-v", "--volume", multiple=True, metavar="SRC:DST[:ro]", help="A path of the node in the container."),
    click.option("-w", "--workdir", default="", metavar="DIR", help="Where the command starts."),
    click.option("-u", "--user", default="", metavar="NAME|UID[:GID]", help="Instead of the image's."),
    click.option("--entrypoint", default="", metavar="COMMAND", help="Instead of the image's."),
    click.option("--runtime", default="", metavar="HANDLER", help="See `ropewalk runtimes`."),
    click.option("--host-network", is_flag=True, help="Share the node's network."),
    click.option("--privileged", is_flag=True, help="All rights and devices of the node."),
    click.option("--cpus", type=float, default=0.0, metavar="N", help="At most that many CPUs: 0.5."),
    click.option("-m", "--memory", default="", metavar="SIZE", help="At most that much memory: 512m."),
    click.option("--cap-add", multiple=True, metavar="CAP", help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="CAP", help="Drop a capability, or ALL."),
    click.option("--read-only", is_flag=True, help="A root file system that cannot be written."),
    click.option("--hostname", default="", help="Instead of the pod's name."),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Of pod and container."),
    click.option("-t", "--tty", is_flag=True, help="Give it a terminal; nobody can type there yet."),
    click.option("--log-dir", default="/var/log/pods", show_default=True, metavar="DIR", help="Where logs are kept."),
)  # fmt: skip


def options(function: F) -> F:
    """Those that plan.Flags holds, under its names."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.command(cls=inside.Command, help=HELP, context_settings={"allow_interspersed_args": False}, epilog=inside.HELP)
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND...]")
@click.option("-d", "--detach", is_flag=True, help="Print the container's id and leave it running.")
@click.option("--rm", "remove", is_flag=True, help="Remove it when it has ended (not with --detach).")
@click.option("--pull", "policy", type=click.Choice(["missing", "always", "never"]), default="missing",
              show_default=True, help="When to pull the image.")  # fmt: skip
@click.option("--network", type=click.Choice(["pod", "host"]), default="pod",
              show_default=True, help="host is --host-network.")  # fmt: skip
@click.option("-i", "--interactive", is_flag=True, help="Not built yet.")
@options
@output.json_option
@endpoint.address_option
def command(
    detach: bool,
    remove: bool,
    policy: str,
    network: str,
    interactive: bool,
    as_json: bool,
    address: str,
    **given: Any,
) -> None:
    if detach and remove:
        raise click.UsageError("--rm needs the foreground; afterwards `ropewalk rm -f` removes it")
    if interactive:
        text = "run with -i is not built yet: there is no attach"
        raise Unsupported(text, hint="use -d and `ropewalk exec`, or give the command as arguments")
    from ropewalk.cli import plan

    given["host_network"] |= network == "host"
    lists = {name: list(value) for name, value in given.items() if isinstance(value, tuple)}
    planned = plan.build(plan.Flags(**{**given, **lists}))
    ran = endpoint.call(address, lambda client: work(client, planned, policy, detach, remove, as_json))
    if as_json:
        import msgspec

        output.emit(msgspec.to_builtins(ran), line=not detach)
    elif detach:
        click.echo(ran.id)
    sys.exit(ran.exit_code or 0)


async def work(
    client: cri.Client, planned: plan.Plan, policy: str, detach: bool, remove: bool, as_json: bool
) -> runner.Ran:
    from ropewalk.cli import entries, runner

    await runner.ensure_image(client, planned.container.image.image, policy, quiet=as_json)
    ran = await runner.start(client, planned)
    return ran if detach else await runner.attend(client, ran, entries.Printer(as_json=as_json), remove=remove)
