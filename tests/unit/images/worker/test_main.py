from __future__ import annotations

import pytest

from ropewalk.errors import Kind
from ropewalk.images import jobs
from ropewalk.images.worker import main


def test_a_layer_that_takes_too_much_memory_fails_as_one_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def do(job: jobs.Job, tell: object) -> jobs.Result:
        raise MemoryError

    monkeypatch.setattr(main, "_do", do)
    report = main._report(jobs.Inherit("", [], []), lambda progress: None)
    assert isinstance(report, jobs.Failure)
    assert Kind(report.kind) is Kind.EXHAUSTED
