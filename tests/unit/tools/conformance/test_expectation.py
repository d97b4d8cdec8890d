"""A run of critest may do better than expected, and not worse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools import critest
from tools.conformance import busybox, expectation
from tools.conformance.expectation import Result

PASS, SKIP, FAIL = Result("pass"), Result("skip", "not built"), Result("fail", "cannot be")


def spec(text: str, state: str, message: str = "", kind: str = "It") -> dict[str, Any]:
    """As ginkgo 2 reports one."""
    failure = {"Failure": {"Message": message}} if message else {}
    return {
        "ContainerHierarchyTexts": ["[k8s.io] A"],
        "LeafNodeType": kind,
        "LeafNodeText": text,
        "State": state,
        **failure,
    }


def read(tmp_path: Path, *specs: dict[str, Any]) -> dict[str, Result]:
    (tmp_path / "report.json").write_text(json.dumps([{"SpecReports": list(specs)}]))
    return expectation.read_report(tmp_path / "report.json")


def test_a_report_is_results_by_name(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        spec("works", "passed"),
        spec("breaks", "failed", "Expected\n    1\nto equal\n    2"),
        spec("panics", "panicked"),
        spec("declines", "skipped", "not supported"),
        spec("was not selected", "skipped"),
        spec("", "passed", kind="BeforeSuite"),
        spec("", "failed", "no socket", kind="AfterSuite"),
    )
    assert found == {
        "[k8s.io] A works": PASS,
        "[k8s.io] A breaks": Result("fail", "Expected 1 to equal 2"),
        "[k8s.io] A panics": Result("fail", "panicked"),
        "[k8s.io] A declines": Result("skip", "not supported"),
        "(AfterSuite) [k8s.io] A": Result("fail", "no socket"),
    }


def test_a_required_spec_that_was_not_run_is_a_skip(tmp_path: Path) -> None:
    read(tmp_path, spec("was not reached", "skipped"), spec("a benchmark", "skipped"))
    found = expectation.read_report(tmp_path / "report.json", {"[k8s.io] A was not reached", "[k8s.io] A absent"})
    assert found == {"[k8s.io] A was not reached": Result("skip", "it was not run")}


def test_a_run_that_selected_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('[{"SpecReports": null}]')
    assert expectation.read_report(tmp_path / "report.json") == {}


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (PASS, PASS, ""),
        (PASS, SKIP, "worse"),
        (PASS, FAIL, "worse"),
        (SKIP, FAIL, "worse"),
        (SKIP, SKIP, ""),
        (SKIP, PASS, "better"),
        (FAIL, SKIP, "better"),
        (FAIL, PASS, "better"),
    ],
)
def test_better_and_worse(before: Result, now: Result, verdict: str) -> None:
    compared = expectation.compare({"a": before}, {"a": now})
    assert [name for name in ("worse", "better") if getattr(compared, name)] == ([verdict] if verdict else [])


def test_names_of_one_side_only() -> None:
    compared = expectation.compare({"old": PASS}, {"new": FAIL})
    assert compared == ([], [], ["new\n    now fail: cannot be"], ["old"])


def test_what_is_worse_fails_the_run_and_what_is_unknown_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"good": PASS, "not here": SKIP, "never": FAIL}
    assert critest.conclude(expected, {"good": PASS, "not here": PASS, "never": FAIL, "new": FAIL}, whole=True) == 0
    said = capsys.readouterr().out
    assert "not in tests/interop/critest.toml:\n  new\n    now fail: cannot be" in said
    assert "better than expected:\n  not here" in said
    assert said.endswith("2 passed, 2 failed (1 expected to), 0 skipped; 0 worse than expected\n")
    for now in (SKIP, FAIL):
        assert critest.conclude(expected, {"good": now}, whole=False) == 1
        said = capsys.readouterr().out
        assert f"worse than expected:\n  good\n    expected pass\n    now {now}" in said
        assert "not have them" not in said


@pytest.mark.parametrize("text", ["", "passes", "pass: why", "skip", "skip: ", "fail"])
def test_an_outcome_has_its_form(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        expectation.parse(text, "name")


def test_a_handler_changes_what_is_different_there(tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text('[specs]\na = "pass"\nb = "pass"\n[handlers.other]\nb = "skip: not built"\n')
    assert expectation.read_expected(tmp_path / "file.toml", "crun") == {"a": PASS, "b": PASS}
    assert expectation.read_expected(tmp_path / "file.toml", "other") == {"a": PASS, "b": SKIP}


@pytest.mark.parametrize("handler", ["crun", "runc"])
def test_the_committed_expectation_is_to_pass_but_for_what_is_known(handler: str) -> None:
    """137 of critest's specs are not benchmarks (on a node without SELinux)."""
    expected = expectation.read_expected(critest.EXPECTED, handler)
    assert len(expected) == 137
    others = {name.removeprefix("[k8s.io] ").partition(" ")[0] for name, result in expected.items() if result != PASS}
    assert others == {"AppArmor", "Image", "NRI", "PodSandbox", "Streaming"}
    assert sum(result == PASS for result in expected.values()) == 103


def test_package_sources_become_sources_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc, into = tmp_path / "etc", tmp_path / "into"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list").write_text("# deb here\ndeb [arch=amd64] http://mirror a main\n")
    (etc / "sources.list.d/b.sources").write_text("Types: deb\nURIs: http://mirror\n")
    monkeypatch.setattr(busybox, "APT", etc)
    busybox.source_lists(into)
    assert (into / "sources.list").read_text() == "# deb here\ndeb-src [arch=amd64] http://mirror a main\n"
    assert (into / "b.sources").read_text() == "Types: deb-src\nURIs: http://mirror\n"


def test_what_critest_asserts_is_asserted_by_our_own_tests(repository: Path) -> None:
    """Every spec that passes, or that fails for no fault of ours, is in the table of docs/conformance.md, which names
    tests that exist."""
    text = (repository / "docs/conformance.md").read_text()
    rows = [line for line in text[text.index("| Specs |") :].splitlines() if line.startswith("| `")]
    patterns = [
        re.escape(name.replace("\\|", "|")).replace("…", ".*")
        for row in rows
        for name in re.findall("`([^`]+)`", row.rpartition(" | ")[0])
    ]
    names = {
        name.removeprefix("[k8s.io] ")
        for name, result in expectation.read_expected(critest.EXPECTED, "crun").items()
        if result == PASS or "digest" in result.reason
    }
    assert [name for name in sorted(names) if not any(re.match(pattern, name) for pattern in patterns)] == []
    tests = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)", text)
    assert len(tests) > len(rows)
    assert [name for name, file in tests if f"def {name}(" not in (repository / file).read_text()] == []
