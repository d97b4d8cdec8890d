"""The house agrees with itself: maps with contracts, documents with code, our proto with the published one."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

import ropewalk
from ropewalk.version import VERSION
from tools import docs, manual

DOCUMENTS = ("README.md", "SPECIFICATION.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
FUNCTION = re.compile(r"`((?:ropewalk|tools)/[\w/]+\.py):([\w.]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")
COMMAND = re.compile(r"`?\./dev (\w+)")
FIELD = ("name", "number", "type", "label", "type_name")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def documents(repository: Path) -> dict[Path, str]:
    return {path: path.read_text() for pattern in DOCUMENTS for path in sorted(repository.glob(pattern))}


# The map in ropewalk/__init__.py and the layers that import-linter checks.


def layers_of(lines: list[str]) -> list[set[str]]:
    """`a | b` is one layer, `a > b` two, highest first; parentheses (optional layers) do not count."""
    levels = [level for line in lines for level in line.split(">")]
    return [set(re.findall(r"\w+", level)) for level in levels]


def test_the_map_is_what_import_linter_checks(project: dict[str, Any]) -> None:
    drawn = [line for line in (ropewalk.__doc__ or "").splitlines() if line.startswith("    ")]
    contract = project["tool"]["importlinter"]["contracts"][0]
    assert layers_of(drawn) == layers_of(contract["layers"])


def test_every_package_is_on_the_map(repository: Path) -> None:
    mapped = set().union(
        *layers_of([line for line in (ropewalk.__doc__ or "").splitlines() if line.startswith("    ")])
    )
    packages = {path.parent.name for path in (repository / "ropewalk").glob("*/__init__.py")}
    assert packages <= mapped


def test_every_package_says_what_it_is(repository: Path) -> None:
    """Style, example 1: three parts, and no code."""
    silent = []
    for path in (repository / "ropewalk").rglob("__init__.py"):
        module = ast.parse(path.read_text())
        if not ast.get_docstring(module) or len(module.body) > 1:
            silent.append(str(path.relative_to(repository)))
    assert silent == []


# Documents name things that exist.


def defined(path: Path, name: str) -> bool:
    """Whether `name` (a function, a class, or Class.method) is defined in a module."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part:
                body = node.body
                break
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == part for target in targets):
                    body = []
                    break
        else:
            return False
    return True


def test_functions_that_documents_name_exist(repository: Path, documents: dict[Path, str]) -> None:
    lost = [
        f"{document.name}: {file}:{name}"
        for document, text in documents.items()
        for file, name in FUNCTION.findall(text)
        if not ((repository / file).is_file() and defined(repository / file, name))
    ]
    assert lost == []


def test_the_journey_names_functions(repository: Path) -> None:
    assert len(FUNCTION.findall((repository / "docs/journey-of-a-pod.md").read_text())) >= 20


def test_links_lead_somewhere(documents: dict[Path, str]) -> None:
    broken = [
        f"{document.name}: {target}"
        for document, text in documents.items()
        for target in LINK.findall(text)
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_every_decision_is_listed(repository: Path) -> None:
    listed = (repository / "docs/decisions/README.md").read_text()
    assert [path.name for path in (repository / "docs/decisions").glob("0*.md") if f"({path.name})" not in listed] == []


def test_verbs_that_documents_name_exist(repository: Path, documents: dict[Path, str]) -> None:
    named = {verb for text in documents.values() for verb in COMMAND.findall(text)}
    assert {verb for verb in named if not (repository / f"tools/{verb}.py").exists()} == set()


def test_promises_name_a_command(repository: Path) -> None:
    """SPECIFICATION.md: each row of a promise ends in what enforces it, and that exists."""
    rows = [line for line in (repository / "SPECIFICATION.md").read_text().splitlines() if line.startswith("| ")]
    enforced = [
        re.findall(r"`([^`]+)`", row.rsplit("|", 2)[-2]) for row in rows if not re.match(r"\| (Promise|-)", row)
    ]
    assert enforced
    assert all(enforced)
    files = [
        part for commands in enforced for command in commands for part in command.split() if part.startswith("tests/")
    ]
    assert [file for file in files if not (repository / file.partition("::")[0]).exists()] == []


# What the command costs.


def test_help_is_cheap() -> None:
    """`ropewalk --help` loads neither asyncio nor gRPC nor a library that only some verb needs."""
    program = (
        "import sys; sys.argv = ['ropewalk', '--help']\n"
        "import contextlib, io, ropewalk.__main__ as main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main.main()\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "ropewalk.cli.main" in loaded
    assert (
        loaded & {"asyncio", "grpc", "google.protobuf", "msgspec", "urllib3", "isal", "rich", "sqlite3", "ssl"} == set()
    )


@pytest.mark.parametrize("verb", ["setup", "demo", "test", "lint", "fmt", "node", "vm", "docs"])
def test_a_verb_of_dev_that_is_asked_for_help_does_nothing_else(verb: str, repository: Path) -> None:
    done = subprocess.run([repository / "dev", verb, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{verb}: ")
    assert '"""' not in done.stdout
    assert "import" not in done.stdout


def test_the_version_is_said_once(project: dict[str, Any]) -> None:
    assert "version" in project["project"]["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", VERSION)


def test_the_lock_pins_everything_by_hash(repository: Path, project: dict[str, Any]) -> None:
    text = (repository / "tools/requirements.lock").read_text()
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.split(r"[<>=~;\[ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert {name.replace(".", "-") for name in names} <= {name.replace(".", "-") for name in pinned}
    assert "://" not in text


def test_the_monitor_stays_small(repository: Path) -> None:
    """It is read by whoever wants to trust it."""
    lines = (repository / "csrc/monitor.c").read_text().splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 600


def test_a_wheel_carries_generated_code_monitor_and_types(repository: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("*_pb2*", "__pycache__", "ropewalk-monitor")
    for name in ("ropewalk", "csrc", "proto", "tools"):
        shutil.copytree(repository / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):  # hatch obeys the last
        shutil.copy(repository / name, source)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        monitor = archive.getinfo("ropewalk/runtimes/monitors/ropewalk-monitor")
    assert monitor.external_attr >> 16 & 0o111, "it is not executable"
    assert wheel.name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_')}.whl")
    code = {f"ropewalk/wire/pb/{name}_pb2.{end}" for name in ("cri", "admin", "shim", "ttrpc") for end in ("py", "pyi")}
    assert code | {"ropewalk/py.typed", "ropewalk/__main__.py"} <= set(names)
    assert wheel.name.startswith(f"ropewalk-{VERSION}-")
    shared = {name.partition("/data/share/")[2] for name in names if "/data/share/" in name}
    assert shared == {name for name, _ in (*manual.build(), *docs.build_completions())}


# Our proto and the published one: the same names and numbers.


def compiled(file: Path, into: Path) -> descriptor_pb2.FileDescriptorProto:
    out = into / f"{file.stem}.pb"
    assert protoc.main(["protoc", f"--proto_path={file.parent}", f"--descriptor_set_out={out}", str(file)]) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


def shape(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """Every name, number and type, without comments and options."""
    found: dict[str, Any] = {}

    def message(path: str, described: descriptor_pb2.DescriptorProto) -> None:
        found[path] = sorted(tuple(getattr(field, key) for key in FIELD) for field in described.field)
        for nested in described.nested_type:
            message(f"{path}.{nested.name}", nested)
        for enum in described.enum_type:
            enumeration(f"{path}.{enum.name}", enum)

    def enumeration(path: str, described: descriptor_pb2.EnumDescriptorProto) -> None:
        found[path] = sorted((value.name, value.number) for value in described.value)

    for described in file.message_type:
        message(described.name, described)
    for enum in file.enum_type:
        enumeration(enum.name, enum)
    for service in file.service:
        found[service.name] = sorted(
            (method.name, method.input_type, method.output_type, method.client_streaming, method.server_streaming)
            for method in service.method
        )
    return found


def test_our_cri_is_the_published_one(repository: Path, tmp_path: Path) -> None:
    published = repository.parent / "shared/reference/cri-api-v1.proto"
    if not published.exists():
        pytest.skip("the published file is not beside this repository")
    ours, theirs = compiled(repository / "proto/cri.proto", tmp_path), compiled(published, tmp_path)
    assert ours.package == theirs.package
    assert shape(ours) == shape(theirs)


# The threat model: a line is worth what shows it.

TEST = re.compile(r"\[(test_\w+)\]\(\.\./(tests/[\w/]+\.py)\)")


def test_every_threat_is_answered_by_tests_that_exist(repository: Path) -> None:
    text = (repository / "docs/threat-model.md").read_text()
    rows = [line for line in text[text.index("## Boundaries") :].splitlines() if line.startswith("| ")]
    threats = [row for row in rows if not row.startswith("| Threat")]
    assert len(threats) > 40
    assert [row for row in threats if not TEST.search(row.rsplit("|", 2)[-2])] == []
    lost = [f"{file}: {name}" for name, file in TEST.findall(text) if not defined(repository / file, name)]
    assert lost == []
    assert len(TEST.findall(text)) == text.count("[test_")
