"""The taxonomy of failures: one Kind each, the object, the observed value, what to do."""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """What went wrong, in the caller's terms. Each API has one table from Kind to its codes."""

    INVALID = "invalid"  # the request can never succeed as it stands
    NOT_FOUND = "not found"
    EXISTS = "already exists"
    STATE = "wrong state"  # the object exists, but not in a state that allows this
    DENIED = "denied"  # credentials or policy
    TIMEOUT = "deadline exceeded"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"  # disk, addresses, tokens
    UNAVAILABLE = "unavailable"  # try again: starting, or the other side is away
    UNSUPPORTED = "unsupported"  # this build, node or handler cannot do it
    CORRUPT = "corrupt"  # bytes do not match what was promised
    INTERNAL = "internal"


class RopewalkError(Exception):
    """Base of every error a caller may see: `message` names object and observed value, `hint` says what to do."""

    kind: Kind = Kind.INTERNAL

    def __init__(self, message: str, *, hint: str = "", kind: Kind | None = None) -> None:
        self.message = message
        self.hint = hint
        if kind is not None:
            self.kind = kind
        super().__init__(f"{message}; {hint}" if hint else message)


class Invalid(RopewalkError):
    kind = Kind.INVALID


class NotFound(RopewalkError):
    kind = Kind.NOT_FOUND


class WrongState(RopewalkError):
    kind = Kind.STATE


class Unsupported(RopewalkError):
    kind = Kind.UNSUPPORTED
