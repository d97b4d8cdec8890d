"""The worker's side of offload.py: `python -S -m ropewalk.linux.offload_worker [background]`, socket at 3.

Imports little, so that it starts in about 20 ms; what a call needs is imported when the call comes.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import sys
from typing import Any

_LENGTH = struct.Struct("=Q")
_SOCKET = 3


def main() -> None:
    """Serve calls until the parent closes its end, or is gone."""
    if sys.argv[1:] == ["background"]:
        _step_back()
    with socket.socket(fileno=_SOCKET) as connection, connection.makefile("rb") as requests:
        while header := requests.read(_LENGTH.size):
            if len(header) < _LENGTH.size:
                return
            answer = _serve(requests.read(_LENGTH.unpack(header)[0]))
            try:
                connection.sendall(_LENGTH.pack(len(answer)) + answer)
            except BrokenPipeError:
                return


def _step_back() -> None:
    """Idle CPU priority; from it follows the lowest I/O priority (ioprio_set(2), "if no I/O scheduler class")."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _serve(request: bytes) -> bytes:
    """Pickled (succeeded, result or exception)."""
    try:
        module, name, arguments = pickle.loads(request)
        target: Any = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
        return pickle.dumps((True, target(*arguments)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return pickle.dumps((False, _portable(error)), pickle.HIGHEST_PROTOCOL)


def _portable(error: Exception) -> Exception:
    """`error` itself if it survives the journey, else a RopewalkError of its kind that says the same."""
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        from ropewalk import errors

        kind = error.kind if isinstance(error, errors.RopewalkError) else errors.Kind.INTERNAL
        return errors.RopewalkError(f"{type(error).__name__}: {error}", kind=kind)
    return error


if __name__ == "__main__":
    main()
