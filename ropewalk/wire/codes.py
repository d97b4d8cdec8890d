"""Kinds of failure and gRPC status codes: one table, read in both directions."""

from __future__ import annotations

import errno

import grpc

from ropewalk.errors import Kind, RopewalkError

CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.STATE: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.CANCELLED: grpc.StatusCode.CANCELLED,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.CORRUPT: grpc.StatusCode.DATA_LOSS,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
_KINDS = {code: kind for kind, code in CODES.items()} | {
    grpc.StatusCode.UNAUTHENTICATED: Kind.DENIED,
    grpc.StatusCode.ABORTED: Kind.STATE,
    grpc.StatusCode.OUT_OF_RANGE: Kind.INVALID,
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def kind(code: grpc.StatusCode) -> Kind:
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
