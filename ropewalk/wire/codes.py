"""Kinds of failure and gRPC status codes: one table, read in both directions."""

from __future__ import annotations

import enum
import errno

from ropewalk.errors import Kind, RopewalkError


class Status(enum.IntEnum):
    """gRPC's status codes (grpc.StatusCode has the names, too)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODES = {
    Kind.INVALID: Status.INVALID_ARGUMENT,
    Kind.NOT_FOUND: Status.NOT_FOUND,
    Kind.EXISTS: Status.ALREADY_EXISTS,
    Kind.STATE: Status.FAILED_PRECONDITION,
    Kind.DENIED: Status.PERMISSION_DENIED,
    Kind.TIMEOUT: Status.DEADLINE_EXCEEDED,
    Kind.CANCELLED: Status.CANCELLED,
    Kind.EXHAUSTED: Status.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: Status.UNAVAILABLE,
    Kind.UNSUPPORTED: Status.UNIMPLEMENTED,
    Kind.CORRUPT: Status.DATA_LOSS,
    Kind.INTERNAL: Status.INTERNAL,
}
_KINDS = {code: kind for kind, code in CODES.items()} | {
    Status.UNAUTHENTICATED: Kind.DENIED,
    Status.ABORTED: Kind.STATE,
    Status.OUT_OF_RANGE: Kind.INVALID,
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def kind(code: Status) -> Kind:
    """What a peer's status code means; UNKNOWN is INTERNAL."""
    return _KINDS.get(code, Kind.INTERNAL)


def expected(error: BaseException) -> RopewalkError | None:
    """The failure that a caller may see, or None if `error` is a defect of ours.

    A TaskGroup's errors are searched; a timeout and a full disk have a kind wherever they happen.
    """
    if isinstance(error, RopewalkError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (expected(inner) for inner in error.exceptions)
        return next((e for e in found if e is not None), None)
    if isinstance(error, TimeoutError):
        return RopewalkError(str(error) or "the operation took too long", kind=Kind.TIMEOUT)
    if isinstance(error, OSError) and error.errno in _FULL:
        return RopewalkError(f"the disk is full: {error}", hint="free space", kind=Kind.EXHAUSTED)
    return None
