"""A Sentry's control socket: the same words that `runsc` says to it, without a Go program for each of them.

urpc (gVisor pkg/urpc): a stream socket; {"method": M, "arg": A} is answered {"success": B, "err": S, "result": R},
without lengths or line ends. It is at <root>/runsc-<pod>.sock (2024), or at the abstract name "runsc-sandbox.<pod>"
(2022). Nobody promises that it stays so: whoever asks has to do without when there is no answer.

One question costs 0.5 ms, `runsc events --stats` 20 ms of CPU.
"""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec
from msgspec import Struct, field

SECONDS = 2.0
LIMIT = 1 << 20


class Usage(Struct, frozen=True):
    usage: int = 0


class Memory(Struct, frozen=True):
    usage: Usage = Usage()


class Pids(Struct, frozen=True):
    current: int = 0


class Data(Struct, frozen=True):
    memory: Memory = Memory()
    pids: Pids = Pids()


class Event(Struct, frozen=True):
    data: Data = Data()


class Result(Struct, frozen=True, rename="camel"):
    """runsc/boot/events.go: EventOut. `container_usage`: CPU time in ns by container, in steps of 10 ms."""

    event: Event = Event()
    container_usage: dict[str, int] = field(default_factory=dict)


class Answer(Struct, frozen=True):
    success: bool
    err: str = ""
    result: Result | None = None


async def event(root: str, pod_id: str, id: str) -> Result | None:
    """What container `id` uses. None if its Sentry is gone, does not know it, or speaks otherwise. Sentries of 2022
    take no id: memory and processes are then those of all containers."""
    try:
        async with asyncio.timeout(SECONDS):
            arguments: tuple[str | dict[str, str], ...] = (id, {})
            for argument in arguments:
                question = msgspec.json.encode({"method": "containerManager.Event", "arg": argument})
                answer = msgspec.json.decode(await _ask(root, pod_id, question), type=Answer)
                if answer.success:
                    return answer.result
    except (OSError, TimeoutError, msgspec.MsgspecError):
        return None
    return None


async def _ask(root: str, pod_id: str, question: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # the whole path may not fit (unix(7))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as control:
            try:
                await loop.sock_connect(control, f"/proc/self/fd/{directory}/runsc-{pod_id}.sock")
            except FileNotFoundError:
                await loop.sock_connect(control, f"\0runsc-sandbox.{pod_id}\0")
            await loop.sock_sendall(control, question)
            answer = b""
            while len(answer) < LIMIT:
                chunk = await loop.sock_recv(control, LIMIT)
                answer += chunk
                if not chunk or _is_whole(answer):
                    break
            return answer
    finally:
        os.close(directory)


def _is_whole(answer: bytes) -> bool:
    """Nothing but the text itself tells where it ends."""
    try:
        msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return False
    return True


def parse_table(table: bytes) -> dict[int, int]:
    """Of `runsc ps`: the Sentry's pids with their parents'."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return {int(row[1]): int(row[2]) for row in rows if len(row) > 2 and row[1].isdigit() and row[2].isdigit()}


def descendants(parents: dict[int, int], root: int) -> list[int]:
    """`root` and what descends from it, as far as it is there; parents first."""
    found = [root] if root in parents else []
    for one in found:
        found += [pid for pid, parent in parents.items() if parent == one and pid not in found]
    return found
