"""Namespaces without a process: made in a throw-away thread, kept alive by bind mounts ("pins")."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from ropewalk import errors
from ropewalk.linux import libc, mount, thread

T = TypeVar("T")

CLONE = {"net": libc.CLONE_NEWNET, "ipc": libc.CLONE_NEWIPC, "uts": libc.CLONE_NEWUTS}


def make(
    kinds: Iterable[str],
    pins: Mapping[str, str],
    *,
    hostname: str = "",
    sysctls: Mapping[str, str] | None = None,
    last: Callable[[], None] | None = None,
) -> None:
    """New namespaces of `kinds` ("net", "ipc", "uts"), each pinned at `pins[kind]`. `last` is then run inside.

    `hostname` and `sysctls` are set inside; only those that the new namespaces hold may be named (a thread that
    stays in the node's own network would change the node). On failure nothing stays pinned.
    """
    kinds = list(kinds)
    flags = 0
    for kind in kinds:
        flags |= CLONE[kind]
    if hostname and "uts" not in kinds:
        raise errors.Invalid(f"hostname {hostname!r} needs a uts namespace of its own")
    if sysctls:
        check_sysctls(sysctls, kinds)

    def fill() -> None:
        if hostname:
            socket.sethostname(hostname)
        for name, value in (sysctls or {}).items():
            write_sysctl(name, value)
        for kind in kinds:
            _pin_file(f"/proc/thread-self/ns/{kind}", pins[kind])
        if last is not None:
            last()

    try:
        thread.apart(fill, unshare=flags)
    except BaseException:
        for kind in kinds:
            unpin(pins[kind])
        raise


def pin(pid: int, kind: str, path: str) -> None:
    """Keep the namespace `kind` (any of /proc/PID/ns) of process `pid` alive at `path`."""
    _pin_file(f"/proc/{pid}/ns/{kind}", path)


def _pin_file(source: str, path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mount.bind(source, path)
    except BaseException:
        os.unlink(path)
        raise


def unpin(path: str) -> None:
    """Undo of make and pin, from the path alone; idempotent. The namespace ends with its last user."""
    mount.umount_all(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def is_pinned(path: str) -> bool:
    """Whether a namespace is mounted on `path`."""
    try:
        return mount.filesystem_magic(path) == mount.NSFS_MAGIC
    except FileNotFoundError:
        return False


def inside(paths: Mapping[str, str], fn: Callable[[], T]) -> T:
    """fn's result, run in a throw-away thread that joined the namespaces at `paths` (kind to pin). Must be quick;
    sockets it returns stay in that network namespace. OSError names the path that could not be joined."""
    fds: list[tuple[int, str, str]] = []
    try:
        for kind, path in paths.items():
            fds.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind, path))

        def body() -> T:
            for fd, kind, path in fds:
                libc.setns(fd, CLONE[kind], path)
            return fn()

        return thread.apart(body)
    finally:
        for fd, _, _ in fds:
            os.close(fd)


def set_hostname(path: str, hostname: str) -> None:
    """The hostname of the uts namespace pinned at `path`."""
    inside({"uts": path}, lambda: socket.sethostname(hostname))


def write_sysctls(paths: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Set sysctls in the pinned namespaces `paths` (kind to pin). /proc/sys shows the namespaces of whoever opens
    it. Invalid: one that none of these namespaces holds, or that the kernel refuses."""
    check_sysctls(values, paths)

    def body() -> None:
        for name, value in values.items():
            write_sysctl(name, value)

    if values:
        inside(paths, body)


def check_sysctls(names: Iterable[str], kinds: Iterable[str]) -> None:
    """Invalid if one of `names` belongs to no namespace of `kinds`: it would change the whole node."""
    held = set(kinds)
    for name in names:
        kind = sysctl_namespace(name)
        if kind not in held:
            why = f"its {kind} namespace is the node's" if kind else "it is not namespaced"
            raise errors.Invalid(f"sysctl {name!r} would change the node: {why}")


def sysctl_namespace(name: str) -> str:
    """The kind of namespace that holds a sysctl ("net", "ipc", "uts"), or "" for the node's own."""
    path = sysctl_path(name)
    if path.startswith("net/"):
        return "net"
    if path in _IPC_SYSCTLS or path.startswith(("fs/mqueue/", "kernel/shm", "kernel/msg")):
        return "ipc"
    return "uts" if path in ("kernel/hostname", "kernel/domainname") else ""


_IPC_SYSCTLS = {"kernel/sem", "kernel/sem_next_id", "kernel/auto_msgmni"}


def sysctl_path(name: str) -> str:
    """Relative to /proc/sys. As sysctl(8): whichever of "." and "/" comes first separates, the other one is part
    of a name (net/ipv4/conf/eth0.100/forwarding)."""
    slash, dot = name.find("/"), name.find(".")
    path = name
    if dot >= 0 and (slash < 0 or dot < slash):
        path = name.translate(str.maketrans("./", "/."))
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise errors.Invalid(f"sysctl {name!r} is not a name", hint="for example net.ipv4.ip_forward")
    return path


def write_sysctl(name: str, value: str) -> None:
    """In the namespaces of the calling thread."""
    try:
        fd = os.open(f"/proc/sys/{sysctl_path(name)}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise errors.Invalid(f"this kernel has no sysctl {name!r}") from None
    except OSError as error:
        raise errors.Invalid(f"sysctl {name}={value!r} was refused: {error.strerror}") from error
