"""Exit codes by kind of error, so that scripts need not read texts."""

from __future__ import annotations

from ropewalk.errors import Kind

EXITS = {
    Kind.INTERNAL: 1,
    Kind.INVALID: 2,  # as click exits for a wrong usage
    Kind.NOT_FOUND: 3,
    Kind.EXISTS: 4,
    Kind.STATE: 5,
    Kind.DENIED: 6,
    Kind.TIMEOUT: 7,
    Kind.EXHAUSTED: 8,
    Kind.UNAVAILABLE: 9,
    Kind.UNSUPPORTED: 10,
    Kind.CORRUPT: 11,
    Kind.CANCELLED: 130,  # as a shell reports SIGINT
}
