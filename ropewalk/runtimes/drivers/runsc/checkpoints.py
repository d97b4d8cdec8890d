"""A Sentry on disk: `runsc checkpoint` writes it with everything in it, `runsc restore` makes another one of that.

What is written is the pod's: its own container and whatever lives beside it. So a container's checkpoint is one of a
pod that has no other. A new Sentry begins with `create` and `restore` of the pod's own container; it waits then for the
other containers of the checkpoint, which it knows by their names (annotation container-name), and loads it all when
the last one is restored: that is the start of the container.

Its addresses and routes a Sentry takes off the pod's interface when it starts. They are noted before, and put back for
the next one.

Tried with 2024-07 on systrap and ptrace: connections that are open when a Sentry is written are closed in the restored
one and fail the checkpoint unless the Sentry was started with --net-disconnect-ok; builds that do not know that flag
(2022-12) cannot go on after `checkpoint --leave-running`: "restoring container: cannot allocate memory", and the pod
is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ropewalk import ids, steps
from ropewalk.errors import NotFound
from ropewalk.linux import addressing, cgroup, namespaces, paths
from ropewalk.runtimes.drivers import bundle, command, oci
from ropewalk.runtimes.drivers.runsc import sentry
from ropewalk.runtimes.handler import Task
from ropewalk.spec.pod import LinuxContainerResources

FLAG = "--net-disconnect-ok"
VERBS = {"checkpoint", "restore"}
OVERLAY = ("--overlay", "-overlay")  # flags: files that the container wrote may then be the node's, not the Sentry's
PS_SECONDS = 20.0
NETWORK, LIMITS = "network.json", "limits.json"  # in the pod's bundle
RESTORED = "restored"  # in a container's: it goes on from a checkpoint


def note_network(own: bundle.Bundle, spec: Mapping[str, Any]) -> None:
    """Before a Sentry starts in the pod's network namespace."""
    pin = netns(spec)
    if pin:
        found = namespaces.inside({"net": pin}, addressing.read)
        paths.write_atomic(own.path(NETWORK), msgspec.json.encode(found), 0o600)


def note_limits(own: bundle.Bundle, limits: LinuxContainerResources) -> None:
    paths.write_atomic(own.path(LIMITS), msgspec.json.encode(limits), 0o600)


def netns(spec: Mapping[str, Any]) -> str:
    """The path of the network namespace that is joined, "" if it is a new one."""
    entries = spec["linux"]["namespaces"]
    return next((entry.get("path", "") for entry in entries if entry["type"] == "network"), "")


async def save(runtime: command.Command, pod_id: str, directory: str) -> None:
    """Without a deadline of its own; runsc ended in the middle does not end the Sentry, which goes on."""
    verb = ("checkpoint", "--leave-running", "--image-path", directory, pod_id)
    await runtime.run(pod_id, *verb, timeout=0)


async def is_whole(runtime: command.Command, pod_id: str) -> bool:
    """Whether a Sentry goes on: as long as it waits for containers, nothing runs in it, not even the pod's own."""
    return bool(sentry.parse_table(await runtime.ask(pod_id, "ps", pod_id, timeout=PS_SECONDS)))


async def replace(
    runtime: command.Command,
    cgroups: cgroup.Cgroups,
    own: bundle.Bundle,
    pod_id: str,
    directory: str,
    *,
    flags: list[str],
    mounts: Callable[[], None] | None,
    forget: Callable[[str], Any],
) -> Task:
    """End the Sentry of a pod and make another one from `directory`. `own`: the pod's bundle; `forget`: removes what
    the runtime has on disk of a dead Sentry."""
    record = own.read_record()
    if not record.cgroup:
        raise NotFound(f"pod sandbox {ids.short(pod_id)} has no Sentry that could be replaced")
    with oci.explained(pod_id):
        await cgroups.kill(record.cgroup)
        steps.checkpoint("sentry:ended")
        await forget(pod_id)
        if content := own.read(NETWORK):
            noted = msgspec.json.decode(content, type=addressing.Addressing)
            namespaces.inside({"net": netns(own.read_config())}, lambda: addressing.write(noted))
        steps.checkpoint("sentry:addressed")
        create = ("create", "--bundle", own.directory, "--pid-file", own.pid_file, pod_id)
        await runtime.run(pod_id, *create, timeout=oci.START_SECONDS, flags=flags)
        steps.checkpoint("sentry:created")
        if content := own.read(LIMITS):
            cgroups.update(record.cgroup, msgspec.json.decode(content, type=LinuxContainerResources))
        restore = ("restore", "--detach", "--bundle", own.directory, "--image-path", directory, pod_id)
        await runtime.run(pod_id, *restore, timeout=oci.START_SECONDS, flags=flags, mounts=mounts)
        steps.checkpoint("sentry:restoring")
        task = own.read_init()
        own.write_task(task)
    return task
