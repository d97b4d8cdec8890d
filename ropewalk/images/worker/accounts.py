"""A layer's /etc/passwd and /etc/group, read from the unpacked layer: bounded, never through a link.

Users of an image are resolved from these bytes, so nobody has to open a file in a mounted tree that a container
may change (CVE-2024-9676: a FIFO there stops the daemon; CVE-2026-47262: its size).
"""

from __future__ import annotations

import os
import stat

from ropewalk.images.jobs import Account
from ropewalk.images.worker.unpack import OVERLAY_OPAQUE

MAX_FILE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_accounts(root: str) -> tuple[Account, Account, list[str]]:
    """(passwd, group, notes) of the layer unpacked at `root`: untouched, gone, or content."""
    notes: list[str] = []
    top = os.open(root, _DIRECTORY)
    try:
        hidden = is_opaque(top)
        try:
            etc = os.open("etc", _DIRECTORY, dir_fd=top)
        except FileNotFoundError:
            return Account(gone=hidden), Account(gone=hidden), notes
        except OSError:  # a whiteout, a link, a file: what lies below is not visible
            return Account(gone=True), Account(gone=True), notes
        try:
            hidden = hidden or is_opaque(etc)
            return _read(etc, "passwd", hidden, notes), _read(etc, "group", hidden, notes), notes
        finally:
            os.close(etc)
    finally:
        os.close(top)


def is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OVERLAY_OPAQUE) == b"y"
    except OSError:
        return False


def _read(etc: int, name: str, hidden: bool, notes: list[str]) -> Account:
    try:
        status = os.stat(name, dir_fd=etc, follow_symlinks=False)
    except FileNotFoundError:
        return Account(gone=hidden)
    if not stat.S_ISREG(status.st_mode):
        return Account(gone=True)
    if status.st_size > MAX_FILE:
        notes.append(f"/etc/{name} has {status.st_size} bytes, more than {MAX_FILE}: no names are resolved from it")
        return Account(gone=True)
    file = os.open(name, _FILE, dir_fd=etc)
    try:
        return Account(content=os.read(file, MAX_FILE))
    finally:
        os.close(file)
