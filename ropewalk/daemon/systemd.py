"""Words to the service manager (sd_notify(3)), without which `Type=notify` would wait for ever."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*fields: str) -> None:
    """One message of "NAME=value" fields. Nothing is listening outside of systemd, and a manager that went away is
    no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
            contextlib.suppress(OSError),
        ):
            place = address.replace("@", "\0", 1) if address.startswith("@") else address
            sender.sendto("\n".join(fields).encode(), place)


def reloading() -> None:
    """A reload begins; READY=1 ends it. The time lets systemd tell which reload an answer is for."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
