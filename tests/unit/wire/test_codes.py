"""Kinds and status codes: a table without holes."""

from __future__ import annotations

import errno

import grpc
import pytest

from ropewalk.errors import Invalid, Kind, NotFound
from ropewalk.wire import codes


def test_every_kind_has_its_own_code() -> None:
    assert set(codes.CODES) == set(Kind)
    assert len(set(codes.CODES.values())) == len(codes.CODES)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_kind_survives_the_wire(kind: Kind) -> None:
    assert codes.kind(codes.CODES[kind]) is kind


def test_an_unknown_code_is_internal() -> None:
    assert codes.kind(grpc.StatusCode.UNKNOWN) is Kind.INTERNAL


def test_expected_finds_what_a_caller_may_see() -> None:
    error = Invalid("no")
    assert codes.expected(error) is error
    assert codes.expected(ExceptionGroup("two", [ValueError(), NotFound("gone")])).kind is Kind.NOT_FOUND  # type: ignore[union-attr]
    assert codes.expected(TimeoutError()).kind is Kind.TIMEOUT  # type: ignore[union-attr]
    assert codes.expected(OSError(errno.ENOSPC, "full")).kind is Kind.EXHAUSTED  # type: ignore[union-attr]
    assert codes.expected(OSError(errno.EIO, "io")) is None
    assert codes.expected(ZeroDivisionError()) is None
