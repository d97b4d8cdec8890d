"""The namespaces that a container joins: its pod's pins, and a PID namespace that another process holds.

The latter, the target's or that of the pod's init, has no pin; it is named by a process. Between the look at the row
and the runtime's open that process may end, and its pid may be another's: /proc/PID/ns/pid would then be a stranger's
namespace, perhaps the node's. So the namespace is opened first, then the process is identified, and the runtime gets a
path to what is open here. Nothing of it outlives the daemon: after a kill the path leads nowhere, and the create under
way is undone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from ropewalk.errors import WrongState
from ropewalk.linux import process
from ropewalk.pods.records import Container, ContainerPhase, Pod
from ropewalk.runtimes.handler import Task
from ropewalk.runtimes.oci import namespaces as choice
from ropewalk.spec.container import ContainerSpec
from ropewalk.spec.pod import NamespaceMode


@contextlib.contextmanager
def namespaces(pod: Pod, spec: ContainerSpec, find: Callable[[str], Container]) -> Iterator[dict[str, str]]:
    """Paths by OCI type, good until the context ends. `find`: a container by its id or a prefix."""
    task, whose = None, f"the init of pod sandbox {pod.id!r}"
    mode = choice.pid_mode(pod.spec, spec)
    if mode is NamespaceMode.POD:
        task = pod.task
    elif mode is NamespaceMode.TARGET:
        target = find(spec.security.namespace_options.target_id)
        whose = f"target container {target.id!r}"
        if target.pod_id != pod.id or target.phase is not ContainerPhase.RUNNING or target.task is None:
            raise WrongState(f"{whose} is not running in pod sandbox {pod.id!r}")
        task = target.task
    if task is None:
        yield pod.namespaces
        return
    with pid_namespace(task, whose) as path:
        yield {**pod.namespaces, "pid": path}


@contextlib.contextmanager
def pid_namespace(task: Task, whose: str) -> Iterator[str]:
    """A path of the process's PID namespace, good for other processes until the context ends. WrongState, naming
    `whose` it is, if it is gone."""
    gone = WrongState(f"{whose} (pid {task.pid}) has ended: its PID namespace cannot be joined")
    try:
        fd = os.open(f"/proc/{task.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise gone from None
    try:
        if not process.is_alive(task.pid, task.pid_start):
            raise gone
        yield f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)
