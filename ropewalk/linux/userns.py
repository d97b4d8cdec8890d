"""User namespaces and what belongs to them (user_namespaces(7)): made in a forked child, since unshare(2) and setns(2)
of a user namespace fail with EINVAL in a process that has threads.

Every function here forks, so it is for a process with one thread only: call it through linux/offload.py.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ropewalk import errors
from ropewalk.linux import libc, namespaces

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CLONE = {"user": libc.CLONE_NEWUSER, **namespaces.CLONE}


class Range(NamedTuple):
    """A line of /proc/PID/uid_map: ids from `inside` on are those from `outside` on, `length` of them."""

    inside: int
    outside: int
    length: int


def make(pins: Mapping[str, str], uids: Sequence[Range], gids: Sequence[Range], *, hostname: str = "") -> None:
    """A user namespace and namespaces that it owns, each pinned at `pins[kind]` ("user" and any of "net", "ipc",
    "uts"). On failure nothing stays pinned, nor if our parent dies meanwhile: nobody would know of them."""
    parent = os.getppid()
    flags = 0
    for kind in pins:
        flags |= CLONE[kind]

    def child(ready: Callable[[], None]) -> None:
        libc.unshare(flags)
        if hostname:
            socket.sethostname(hostname)
        ready()

    def pin(pid: int) -> None:
        write_maps(pid, uids, gids)
        for kind, path in pins.items():
            namespaces.pin(pid, kind, path)
        if os.getppid() != parent:
            raise errors.RopewalkError("the daemon ended")

    try:
        _with_child(child, pin)
    except BaseException:
        for path in pins.values():
            namespaces.unpin(path)
        raise


def write_maps(pid: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """Once only for each namespace."""
    for name, ranges in (("uid_map", uids), ("gid_map", gids)):
        text = "".join(f"{one.inside} {one.outside} {one.length}\n" for one in ranges)
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)


def write_sysctls(paths: Mapping[str, str], values: Mapping[str, str]) -> None:
    """As namespaces.write_sysctls, for namespaces of the user namespace `paths["user"]`: those of IPC can be written
    by its root only (ipc/ipc_sysctl.c, ipc_permissions)."""
    kinds = [kind for kind in paths if kind != "user"]
    namespaces.check_sysctls(values, kinds)

    def child(ready: Callable[[], None]) -> None:
        fds = [(kind, os.open(paths[kind], os.O_RDONLY | os.O_CLOEXEC)) for kind in ("user", *kinds)]
        for kind, fd in fds:
            libc.setns(fd, CLONE[kind], paths[kind])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        for name, value in values.items():
            namespaces.write_sysctl(name, value)
        ready()

    _with_child(child, lambda pid: None)


def _with_child(child: Callable[[Callable[[], None]], None], then: Callable[[int], None]) -> None:
    """Fork; once the child says that it is ready, `then(its pid)`; then it ends. What either raises is raised here."""
    ours, its = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        _run(child, its)
    its.close()
    try:
        with ours:
            answer = b""
            while chunk := ours.recv(65536):
                answer += chunk
                if answer == b".":
                    break
            if answer != b".":
                raise _parse(answer)
            then(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(child: Callable[[Callable[[], None]], None], channel: socket.socket) -> None:
    """The child: never returns."""
    try:
        libc.check(libc.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        child(lambda: channel.sendall(b"."))
        channel.recv(1)  # until the parent has seen what it wanted
    except BaseException as error:
        channel.sendall(pickle.dumps(error))
    finally:
        os._exit(0)


def _parse(answer: bytes) -> BaseException:
    if not answer:
        return errors.RopewalkError("the process that makes a user namespace was killed")
    error = pickle.loads(answer)
    return error if isinstance(error, BaseException) else errors.RopewalkError(repr(error))
