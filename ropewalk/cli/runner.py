"""What `ropewalk run` does, step by step: image, pod, container, and in the foreground its output to the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from ropewalk.cli import entries, inside, lifecycle, progress
from ropewalk.errors import Kind, NotFound, RopewalkError

if TYPE_CHECKING:
    from ropewalk.cli.plan import Plan
    from ropewalk.client import cri

GRACE = 10  # seconds that Ctrl-C gives the container


class Ran(Struct, frozen=True):
    """A container that was started; in the foreground, how it ended."""

    pod_id: str
    id: str
    name: str
    exit_code: int | None = None
    reason: str = ""


async def ensure_image(client: cri.Client, reference: str, policy: str, *, quiet: bool) -> None:
    """`policy`: "missing", "always" or "never", as docker's --pull. A path is a checkpoint, which nobody pulls."""
    if reference.startswith("/"):
        return
    present = policy != "always" and await client.image(reference) is not None
    if not present and policy == "never":
        raise NotFound(f"no image {reference!r}", hint=f"`ropewalk pull {reference}`, or --pull missing")
    if not present:
        await progress.pull(client, reference, quiet=quiet)


async def start(client: cri.Client, plan: Plan) -> Ran:
    """The container runs; or else nothing is left of it."""
    await check_name(client, plan)
    make_log_directory(plan.pod.log_directory)
    id = ""
    try:
        id = await client.run_pod(plan.pod)
        with inside.execution():
            container = await client.create(id, plan.container, plan.pod)
            await client.start(container)
    except BaseException as error:
        await asyncio.shield(_undo(client, id, plan, left=isinstance(error, asyncio.CancelledError)))
        raise
    return Ran(id, container, plan.name)


async def check_name(client: cri.Client, plan: Plan) -> None:
    """To the CRI names are free as long as uids differ; to people they are not."""
    for pod in await client.pods():
        if (pod.metadata.name, pod.metadata.namespace) == (plan.name, plan.pod.metadata.namespace):
            text = f"pod {pod.id[:12]} has the name {plan.name} already"
            raise RopewalkError(text, hint=f"`ropewalk rm -f {plan.name}`, or another --name", kind=Kind.EXISTS)


def make_log_directory(path: str) -> None:
    """As kubelet does: the endpoint expects it to exist."""
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        text = f"cannot make the directory for logs {path}: {error.strerror}"
        kind = Kind.DENIED if isinstance(error, PermissionError) else Kind.INTERNAL
        raise RopewalkError(text, hint="run this as root, or give --log-dir", kind=kind) from None


async def _undo(client: cri.Client, id: str, plan: Plan, *, left: bool) -> None:
    """Whatever there is of a run that failed. `left`: by Ctrl-C, perhaps before the answer: the endpoint goes on making
    the pod then, and the same request again gets it."""
    with contextlib.suppress(RopewalkError):
        if left and not id:
            id = await client.run_pod(plan.pod)
        if id:
            await client.stop_pod(id)
            await client.remove_pod(id)
    lifecycle.remove_logs([plan.log_path], os.path.basename(plan.pod.log_directory))
    with contextlib.suppress(OSError):
        os.rmdir(plan.pod.log_directory)


async def attend(client: cri.Client, ran: Ran, printer: entries.Printer, *, remove: bool) -> Ran:
    """Print its output until it ends; a signal stops it, a second one kills it. Its pod is stopped afterwards, so
    that it holds no address and no port, and removed if `remove`. OSError if its output cannot be printed: then it is
    stopped too, for it would fill its log unseen."""
    with stopped_by_signals(client, ran.id):
        try:
            status = await entries.follow(client, await client.container_status(ran.id), printer)
        except OSError:
            await lifecycle.stop_container(client, ran.id, GRACE)
            await _end_pod(client, ran, remove=remove)
            raise
    if status is None:
        raise RopewalkError(f"container {ran.name} was removed while it ran", kind=Kind.NOT_FOUND)
    await _end_pod(client, ran, remove=remove)
    return structs.replace(ran, exit_code=status.exit_code, reason=status.reason)


async def _end_pod(client: cri.Client, ran: Ran, *, remove: bool) -> None:
    if remove:
        for pod in await client.pods(id=ran.pod_id):
            await lifecycle.remove_pod(client, pod, force=True)
    else:
        await client.stop_pod(ran.pod_id)


@contextlib.contextmanager
def stopped_by_signals(client: cri.Client, id: str) -> Iterator[None]:
    """SIGINT, SIGTERM and the SIGHUP of a terminal that is closed (not under nohup) become StopContainer; the command
    goes on until the container has ended."""
    loop = asyncio.get_running_loop()
    stops: list[asyncio.Task[None]] = []

    def stop() -> None:
        stops.append(loop.create_task(lifecycle.stop_container(client, id, 0 if stops else GRACE)))

    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    numbers = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else []))
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        for task in stops:
            task.cancel()
