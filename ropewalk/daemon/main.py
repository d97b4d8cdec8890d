"""`ropewalk serve`: from a configuration to a socket that answers, until a signal. SIGHUP is a reload (reload.py).

SIGTERM and SIGINT end the daemon and leave every pod running: shutdown is a crash with notice. Calls under way get a
moment, nothing is undone; whatever they were doing is adopted or undone by the next daemon.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ropewalk.daemon import config, logs, reload, systemd, wiring
from ropewalk.errors import Invalid, RopewalkError
from ropewalk.linux import orphans
from ropewalk.version import VERSION
from ropewalk.wire import grpc

GRACE = 0.3  # seconds for calls under way
CLOSE = 2.0  # seconds for letting go of everything else
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def run(file: str, overrides: dict[str, Any], assigned: Sequence[str]) -> NoReturn:
    """Serve until a signal; arguments as of `config.load`. Raises RopewalkError if it cannot start."""
    hangups: list[int] = []  # that came before a reload is possible; the signal's default would be the end
    signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
    read = functools.partial(config.load, file, overrides, assigned)
    loaded = read()
    logs.setup(loaded.config.log)
    for warning in loaded.warnings:
        log.warning(warning)
    os.umask(0o022)
    gc.set_threshold(20_000, 20, 50)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(serve(loaded, read, hangups, began=time.monotonic()))
    except OSError as error:  # a directory that is none, a disk that is broken
        raise RopewalkError(f"cannot start: {error}") from error
    logging.shutdown()
    os._exit(0)  # work under way is not undone: its tasks must not be told


async def serve(
    loaded: config.Loaded, read: Callable[[], config.Loaded], hangups: Sequence[int], *, began: float
) -> None:
    """One daemon's life. `read`: the configuration, once more; `hangups`: asked for before this could do it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in SIGNALS:
        loop.add_signal_handler(signum, stop.set)
    orphans.Orphans()
    address = loaded.config.socket
    make_place(address)
    await grpc.claim(address)  # refused before anything is made
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
    systemd.notify("READY=1")
    loop.add_signal_handler(signal.SIGHUP, reload.run, read, daemon)
    if hangups:
        reload.run(read, daemon)
    gc.collect()
    gc.freeze()
    await stop.wait()
    systemd.notify("STOPPING=1")
    log.info("ending; pods go on running")
    await server.stop(GRACE)
    await finish(daemon)


async def finish(daemon: wiring.Daemon) -> None:
    """Let go of everything. What fails is said, and keeps nothing after it from being done."""
    for work, limit in ((daemon.end_pods, None), (daemon.close, CLOSE)):
        try:
            async with asyncio.timeout(limit):
                await work()
        except TimeoutError:
            continue
        except Exception as error:
            log.warning("ending is not whole", extra={"work": work.__name__, "error": str(error)})


def make_place(path: str) -> None:
    """The socket's directory, which comes before all others. Raises Invalid."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except OSError as error:
        raise Invalid(f"cannot make the directory {directory}: {error.strerror}", hint="are you root?") from error
