"""Identifiers: 64 random hex digits, and the short form people read."""

from __future__ import annotations

import os

LENGTH = 64
SHORT = 13  # what crictl and docker show is 12-13 digits


def new_id() -> str:
    """64 random lower-case hex digits."""
    return os.urandom(LENGTH // 2).hex()


def short(id: str) -> str:
    return id[:SHORT]
