"""A fake registry that has one image under the tag "1"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ropewalk.images.worker import http
from tests.fakes import registry as fakes
from tests.unit.images.worker import scenario


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[fakes.Registry]:
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    with fakes.running() as registry:
        registry.add("1", scenario.IMAGE)
        yield registry
