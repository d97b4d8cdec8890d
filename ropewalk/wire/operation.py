"""The operation id: eight hex digits that tie the log lines of one request together.

A context variable, so every task that a request starts inherits it.
"""

from __future__ import annotations

import contextvars
import os

_current: contextvars.ContextVar[str] = contextvars.ContextVar("ropewalk_operation", default="")


def begin() -> str:
    """A new id for the current task and those it starts."""
    id = os.urandom(4).hex()
    _current.set(id)
    return id


def current() -> str:
    """The id of the request that is being served; "" outside of one."""
    return _current.get()
