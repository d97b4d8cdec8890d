"""`ropewalk serve`: from a configuration to a socket that answers, until a signal.

SIGTERM and SIGINT end the daemon and leave every pod running: shutdown is a crash with notice. Calls under way get a
moment, nothing is undone; whatever they were doing is adopted or undone by the next daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from ropewalk.daemon import config, logs, wiring
from ropewalk.errors import RopewalkError
from ropewalk.linux import orphans
from ropewalk.version import VERSION
from ropewalk.wire import grpc

GRACE = 0.3  # seconds for calls under way
CLOSE = 0.5  # seconds for letting go of everything else
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def run(file: str, overrides: dict[str, Any], assigned: Sequence[str]) -> NoReturn:
    """Serve until a signal; arguments as of `config.load`. Raises RopewalkError if it cannot start."""
    loaded = config.load(file, overrides, assigned)
    logs.setup(loaded.config.log)
    for warning in loaded.warnings:
        log.warning(warning)
    os.umask(0o022)
    gc.set_threshold(20_000, 20, 50)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(loaded, began=time.monotonic()))
    logging.shutdown()
    os._exit(0)  # work under way is not undone: its tasks must not be told


async def serve(loaded: config.Loaded, *, began: float) -> None:
    """One daemon's life."""
    stop = asyncio.Event()
    for signum in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    orphans.Orphans()
    address = loaded.config.socket
    make_place(address)
    grpc.claim(address)  # refused before anything is made
    daemon = wiring.Daemon(loaded.config)
    server = grpc.Server(daemon.services())
    try:
        await daemon.start()
        await server.start(address)
    except BaseException:
        await daemon.close()
        raise
    daemon.begin()
    facts = {"version": VERSION, "address": address, "instance": daemon.instance, "files": loaded.files}
    log.info("serving", extra=facts | {"pid": os.getpid(), "seconds": round(time.monotonic() - began, 3)})
    notify("READY=1")
    gc.collect()
    gc.freeze()
    await stop.wait()
    notify("STOPPING=1")
    log.info("ending; pods go on running")
    await server.stop(GRACE)
    with contextlib.suppress(TimeoutError, RopewalkError):
        async with asyncio.timeout(CLOSE):
            await daemon.close()


def make_place(path: str) -> None:
    """The socket's directory, for an address that lies elsewhere than in the state directory."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o755, exist_ok=True)


def notify(message: str) -> None:
    """sd_notify(3), without which `Type=notify` would wait for ever. Nothing is listening outside of systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            contextlib.suppress(OSError),
        ):
            sender.sendto(message.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
